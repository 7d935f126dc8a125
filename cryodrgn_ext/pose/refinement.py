"""From a rough map to the poses of all particles: rounds of search, local refinement and reconstruction.

The two half-sets never see each other's maps but for the lowest frequencies (see :mod:`.half_references`). The band in
which images are aligned grows with the FSC between the halves. A round searches all orientations (thesis, Algorithm 2)
or refines the poses at hand by Gauss-Newton steps. After every search come local rounds until the resolution stands
still; then a search begins again, with a better map, until it moves next to nothing. Between rounds the particle is
brought back to the centre of the box, and searches look around the shifts that each image has by then, so that
particles picked off centre are found step by step (thesis 5.4.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.imaging.masks import spherical_mask
from cryodrgn_ext.imaging.slices import FourierVolume
from cryodrgn_ext.pose.centring import centre_of_mass, recentred, shifts_after_centring
from cryodrgn_ext.pose.half_references import References, make_references
from cryodrgn_ext.pose.local import LocalPoses, TurningVolume, refine_poses
from cryodrgn_ext.pose.metrics import pose_errors
from cryodrgn_ext.pose.scoring import Scorer
from cryodrgn_ext.pose.search import SearchSettings, search
from cryodrgn_ext.pose.settings import ReconstructSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.reconstruction.backprojection import BackprojectionSums, backproject

Kind = Literal["search", "local"]

#: Band of the base grid of searches and the band of their refinement, in cycles per box.
BASE_RADIUS, SEARCH_RADIUS = 8.0, 12.0
REFINEMENTS, KEPT, POLISHED = 1, 6, 3
#: The band may grow by this factor in a round, and this many shells beyond the resolution.
GROWTH, BEYOND = 1.5, 1.0
#: A search that moves fewer images than this, by more than MOVED_DEG, was the last one; no more than MOST_SEARCHES.
MOVED_SHARE, MOVED_DEG, MOST_SEARCHES = 0.02, 10.0, 4
#: Local rounds end when the resolution gains less than this (shells) in one of them, and when they turn images by
#: less than this share of what noise leaves uncertain.
LEAST_GAIN, LEAST_TURN = 0.3, 0.2
MOST_LOCAL_ROUNDS, GAUSS_NEWTON_STEPS = 8, 4
BYTES_PER_COEFFICIENT = 48


@dataclass(frozen=True)
class RefinementState:
    """Where a refinement stands between two rounds.

    Attributes
    ----------
    rotation : Tensor
        (N, 3, 3) float64.
    shift_px : Tensor
        (N, 2) float64.
    log_likelihood : Tensor
        (N,) float64, nats relative to no particle, at the last band.
    error_deg, error_px : Tensor
        (N,) float64 standard deviations of the poses that noise leaves.
    radius : float
        Band of the next round, in cycles per box.
    resolution : float
        Shell where the halves' FSC fell below 0.143.
    round, searches, local_rounds : int
        Rounds done; searches among them; local rounds since the last search.
    moved_share : float
        Share of the images that the last search moved.
    settled : bool
        Whether local rounds have nothing more to gain.
    """

    rotation: Tensor
    shift_px: Tensor
    log_likelihood: Tensor
    error_deg: Tensor
    error_px: Tensor
    radius: float
    resolution: float = 0.0
    round: int = 0
    searches: int = 0
    local_rounds: int = 0
    moved_share: float = 1.0
    settled: bool = False

    @property
    def next_kind(self) -> Kind | None:
        """What the next round does; None when all is done."""
        if self.searches == 0:
            return "search"
        if not self.settled:
            return "local"
        if self.moved_share > MOVED_SHARE and self.searches < MOST_SEARCHES:
            return "search"
        return None


@dataclass(frozen=True)
class Refined:
    """What a refinement ends with: the last state, and the sums over each half at its poses."""

    state: RefinementState
    sums1: BackprojectionSums
    sums2: BackprojectionSums
    references: References


def first_state(images: ParticleImages, radius: float) -> RefinementState:
    """State before any pose is known."""
    n = images.n
    none = torch.zeros(n, dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64).expand(n, 3, 3).clone()
    return RefinementState(eye, torch.zeros(n, 2, dtype=torch.float64), none, none, none, radius)


def refine(
    images: ParticleImages,
    start: Tensor,
    settings: ReconstructSettings,
    state: RefinementState,
    monitor: Monitor,
    keep: Callable[[RefinementState], None] | None = None,
) -> Refined:
    """Refine until nothing moves.

    Parameters
    ----------
    images : ParticleImages
        Their poses are not used.
    start : Tensor
        (D, D, D) rough map, which the first search goes by.
    settings : ReconstructSettings
    state : RefinementState
        :func:`first_state`, or that of an interrupted run.
    monitor : Monitor
    keep : callable, optional
        Called with the state after every round.
    """
    d = images.box_size
    radius = settings.mask_radius(d)
    sphere = spherical_mask(d, 0.9 * radius, 0.1 * radius, start.device)
    sums, references = None, None
    if state.searches:
        sums = _sums(images, state, settings, monitor)
        references = make_references(*sums, sphere)
    while state.next_kind is not None and state.round < settings.rounds:
        kind = state.next_kind
        halves = (start, start) if references is None else (references.half1, references.half2)
        state = _round(images, halves, kind, settings, state, monitor)
        sums = _sums(images, state, settings, monitor)
        references = make_references(*sums, sphere)
        state, moved = _centred(state, references)
        state = _judged(state, references, kind, images.plane.radius)
        if moved:
            sums = _sums(images, state, settings, monitor)
            references = make_references(*sums, sphere)
        monitor.message(_sentence(images, state, kind))
        if keep is not None:
            keep(state)
    if sums is None or references is None:
        raise ValueError("a refinement needs at least one round")
    return Refined(state, *sums, references)


def _sentence(images: ParticleImages, state: RefinementState, kind: Kind) -> str:
    resolution = images.box_size * images.pixel_size_A / max(state.resolution, 1e-6)
    what = f"search moved {100 * state.moved_share:.1f} % of the images" if kind == "search" else "poses refined"
    return (
        f"Round {state.round}: {what}; {float(state.log_likelihood.mean()):.1f} nats per particle, "
        f"halves agree to {resolution:.1f} Å."
    )


def _sums(
    images: ParticleImages, state: RefinementState, settings: ReconstructSettings, monitor: Monitor
) -> tuple[BackprojectionSums, BackprojectionSums]:
    """Backprojections of both halves, somewhat beyond the band of the next round."""
    posed = images.with_poses(state.rotation.to(images.rotation), state.shift_px.to(images.rotation))
    reach = min(images.plane.radius, math.ceil(state.radius * GROWTH) + 3)
    one, two = (
        backproject(posed, (images.half_set == half).nonzero()[:, 0], radius=reach, device=settings.device,
                    monitor=monitor, description=f"Reconstructing half {half}")
        for half in (1, 2)
    )  # fmt: skip
    return one, two


def _round(
    images: ParticleImages, halves: tuple[Tensor, Tensor], kind: Kind, settings: ReconstructSettings,
    state: RefinementState, monitor: Monitor,
) -> RefinementState:  # fmt: skip
    """Poses of all images against the maps of their halves."""
    rotation, shift_px = state.rotation.clone(), state.shift_px.clone()
    fit, error_deg, error_px = state.log_likelihood.clone(), state.error_deg.clone(), state.error_px.clone()
    reach = min(math.ceil(state.radius) + 1, images.box_size // 2)
    moved, turn = torch.zeros(images.n), torch.zeros(images.n)
    for half, reference in enumerate(halves, start=1):
        members = (images.half_set == half).nonzero()[:, 0]
        field = TurningVolume.from_maps(reference[None], reach)
        model = FourierVolume(field.grid, field.fields[..., 0, 0].contiguous())
        pieces = list(_pieces(images, members, state.radius, settings))
        label = f"{'Searching' if kind == 'search' else 'Refining'} poses of half {half}"
        for rows in monitor.track(pieces, label, len(members), len(pieces[0]) if pieces else 1):
            before = state.rotation[rows]
            if kind == "search":
                found = _searched(images, model, field, rows, settings, state)
            else:
                scorer = Scorer(images, rows, state.radius, settings.device, settings.memory_bytes)
                found = refine_poses(
                    scorer, field, before, state.shift_px[rows], state.radius, iterations=GAUSS_NEWTON_STEPS
                )
            rotation[rows], shift_px[rows] = found.rotation.cpu(), found.shift_px.cpu()
            fit[rows] = found.log_likelihood.cpu()
            error_deg[rows], error_px[rows] = found.error_deg.cpu(), found.error_px.cpu()
            turn[rows] = _degrees(before, rotation[rows])
    if kind == "search":
        moved = (turn > MOVED_DEG).float()
        share = 1.0 if state.searches == 0 else float(moved.mean())
        settled = state.searches > 0 and share <= MOVED_SHARE
        return replace(
            state, rotation=rotation, shift_px=shift_px, log_likelihood=fit, error_deg=error_deg, error_px=error_px,
            round=state.round + 1, searches=state.searches + 1, local_rounds=0, moved_share=share, settled=settled,
        )  # fmt: skip
    still = float(turn.median()) < LEAST_TURN * math.sqrt(3.0) * float(error_deg.median())
    return replace(
        state, rotation=rotation, shift_px=shift_px, log_likelihood=fit, error_deg=error_deg, error_px=error_px,
        round=state.round + 1, local_rounds=state.local_rounds + 1, settled=still,
    )  # fmt: skip


def polished(
    scorer: Scorer, field: TurningVolume, rotation: Tensor, shift_px: Tensor, radius: float,
    weights: Tensor | None = None,
) -> LocalPoses:  # fmt: skip
    """Refine what a search found, in its own band first: in the full band it may lie beyond the nearest optimum."""
    if radius > SEARCH_RADIUS:
        near = refine_poses(scorer, field, rotation, shift_px, SEARCH_RADIUS, weights, GAUSS_NEWTON_STEPS)
        rotation, shift_px = near.rotation, near.shift_px
    return refine_poses(scorer, field, rotation, shift_px, radius, weights, GAUSS_NEWTON_STEPS)


def search_settings(images: ParticleImages, settings: ReconstructSettings, radius: float) -> SearchSettings:
    """How all orientations are searched when images are aligned up to ``radius`` cycles per box."""
    d = images.box_size
    extent, base = settings.shift_extent(d), min(BASE_RADIUS, radius)
    return SearchSettings(
        base_level=1, refinements=REFINEMENTS, keep=KEPT, k_min=base, k_max=min(SEARCH_RADIUS, radius),
        shift_extent_px=extent, shift_count=2 * max(1, math.ceil(extent * 4 * base / d - 0.5)) + 1,
        keep_final=POLISHED, memory_bytes=settings.memory_bytes, device=settings.device,
    )  # fmt: skip


def _degrees(one: Tensor, two: Tensor) -> Tensor:
    """(n,) angles between rotations."""
    zero: NDArray[np.float64] = np.zeros((len(one), 2))
    return torch.from_numpy(pose_errors(one.numpy(), zero, two.numpy(), zero).degrees).float()


def _pieces(images: ParticleImages, rows: Tensor, radius: float, settings: ReconstructSettings) -> Iterator[Tensor]:
    """Rows that are held in memory at a time."""
    count = images.plane.prefix(radius)
    each = max(1, min(4096, settings.memory_bytes // (2 * BYTES_PER_COEFFICIENT * POLISHED * count)))
    yield from rows.split(each)


def _searched(
    images: ParticleImages, model: FourierVolume, field: TurningVolume, rows: Tensor, settings: ReconstructSettings,
    state: RefinementState,
) -> LocalPoses:  # fmt: skip
    """Best of the searched candidates and, after the first search, of the pose at hand, each refined."""
    looking = search_settings(images, settings, state.radius)
    # Around the shifts at hand: a particle off by more than the extent is reached in a later search.
    found = search(recentred(images, state.shift_px), model, looking, rows).candidates
    if found is None:
        raise ValueError("a search for several candidates returned none")
    rotation, shift = found.rotation.double(), found.shift_px.double() + state.shift_px[rows, None]
    if state.searches:
        rotation = torch.cat([rotation, state.rotation[rows, None]], dim=1)
        shift = torch.cat([shift, state.shift_px[rows, None]], dim=1)
    each = rotation.shape[1]
    scorer = Scorer(images, rows.repeat_interleave(each), state.radius, settings.device, settings.memory_bytes)
    refined = polished(scorer, field, rotation.flatten(0, 1), shift.flatten(0, 1), state.radius)
    best = refined.log_likelihood.view(-1, each).argmax(1)
    return refined.chosen(torch.arange(len(rows), device=best.device) * each + best)


def _centred(state: RefinementState, references: References) -> tuple[RefinementState, bool]:
    """Bring the particle to the centre of the box, if it is off by half a voxel or more."""
    offset = centre_of_mass(references.half1 + references.half2).cpu()
    if float(offset.abs().max()) < 0.5:
        return state, False
    return replace(state, shift_px=shifts_after_centring(state.rotation, state.shift_px, offset)), True


def _judged(state: RefinementState, references: References, kind: Kind, limit: int) -> RefinementState:
    """Band of the next round, and whether local rounds still gain resolution."""
    resolution = references.radius
    gain = resolution - state.resolution
    grown = min(resolution + BEYOND, state.radius * GROWTH + 1.0, float(limit))
    radius = max(state.radius, grown)
    settled = state.settled
    if kind == "local":
        still_growing = gain >= LEAST_GAIN or radius > state.radius + 0.5
        settled = (state.settled and not still_growing) or state.local_rounds >= MOST_LOCAL_ROUNDS
    return replace(state, resolution=resolution, radius=radius, settled=settled)

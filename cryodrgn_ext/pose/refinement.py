"""From a rough map to the poses of all particles: rounds of search, local refinement and reconstruction.

The two half-sets never see each other's maps but for the lowest frequencies (see :mod:`.half_references`). The band in
which images are aligned grows with the FSC between the halves. A round searches all orientations (thesis, Algorithm 2)
or refines the poses at hand by Gauss-Newton steps. After every search come local rounds until the resolution stands
still; then a search begins again, with a better map, until it moves next to nothing. Between rounds the particle is
brought back to the centre of the box, and searches look around the shifts that each image has by then, so that
particles picked off centre are found step by step (thesis 5.4.2).

Where noise leaves poses so uncertain that it shows in the map, maps are made from poses drawn about the best ones, as
uncertain as they are (the maximisation of a Monte Carlo EM): at its best pose every image shows its own noise as well,
and maps from nothing else settle where poses fit each other's noise.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryodrgn_ext.fourier.masks import spherical_mask
from cryodrgn_ext.fourier.slices import FourierGrid
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.pose.alignment import Kind, KnownPoses, align_to_halves
from cryodrgn_ext.pose.centring import centre_of_mass, shifts_after_centring
from cryodrgn_ext.pose.half_references import References, make_references
from cryodrgn_ext.pose.local import POSE_COLUMNS, LocalPoses, joined
from cryodrgn_ext.pose.settings import ReconstructSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.reconstruction.backprojection import BackprojectionSums, backproject

#: The band may grow by this factor in a round, and this many shells beyond the resolution.
GROWTH, BEYOND = 1.5, 1.0
#: A search that moves fewer images than this, by more than MOVED_DEG, was the last one; no more than MOST_SEARCHES.
MOVED_SHARE, MOVED_DEG, MOST_SEARCHES = 0.02, 10.0, 4
#: Later searches begin with a sample of so many images, and end there when none of it moves.
SAMPLE = 1000
#: Local rounds end when the resolution gains less than this (shells) in one of them, and when they turn images by
#: less than this share of what noise leaves uncertain.
LEAST_GAIN, LEAST_TURN = 0.3, 0.2
MOST_LOCAL_ROUNDS = 8
#: Sums are over three grid points per cycle per box rather than two when noise leaves no more than so many degrees
#: uncertain: with two, trilinear insertion by itself lets poses of noiseless images drift off the truth, by 0.6 degrees
#: at a box of 64 (by 0.1 with three). It takes images enough, so many at each grid point, and a radius that memory
#: allows. With noise, more images at each of fewer points are better.
FINE_DEG, FINE_SEEN, FINE_RADIUS = 0.4, 1.0, 48
#: Poses are drawn where their uncertainty is worth more than this at the rim of the band, in radians of phase at the
#: root mean square radius of a ball in the mask; so many of each image. No farther than so many degrees and pixels: a
#: map blurred too much leaves poses more uncertain, which blurs it more.
LEAST_SPREAD, DRAWS, MOST_DEG, MOST_PX = 1.2, 4, 5.0, 1.0
#: Local rounds at least after the last search, where poses are drawn: such maps approach the truth slowly.
LAST_ROUNDS = 5


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
        """What the next round does; None when poses have come to rest."""
        if self.searches == 0:
            return "search"
        if not self.settled:
            return "local"
        if self.moved_share > MOVED_SHARE and self.searches < MOST_SEARCHES:
            return "search"
        return None


@dataclass(frozen=True)
class Refined:
    """What a refinement ends with: the last state, the sums over each half at its poses, what they were aligned to."""

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
    start: tuple[Tensor, Tensor],
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
    start : pair of Tensor
        (D, D, D) rough maps, which the first search of either half-set goes by.
    settings : ReconstructSettings
    state : RefinementState
        :func:`first_state`, or that of an interrupted run.
    monitor : Monitor
    keep : callable, optional
        Called with the state after every round.
    """
    d = images.box_size
    radius = settings.mask_radius(d)
    sphere = spherical_mask(d, 0.9 * radius, 0.1 * radius, start[0].device)
    sums, references = None, None
    if state.searches:
        sums = _sums(images, state, settings, monitor)
        references = make_references(*sums, sphere)
    while (kind := _next_kind(images, state, settings)) is not None and state.round < settings.rounds:
        halves = start if references is None else (references.half1, references.half2)
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
    if _are_drawn(images, state, settings):
        sums = _sums(images, state, settings, monitor, at_best=True)
    return Refined(state, *sums, references)


def _next_kind(images: ParticleImages, state: RefinementState, settings: ReconstructSettings) -> Kind | None:
    """What the next round does; None when all is done."""
    if state.next_kind is None and state.local_rounds < LAST_ROUNDS and _are_drawn(images, state, settings):
        return "local"
    return state.next_kind


def _sentence(images: ParticleImages, state: RefinementState, kind: Kind) -> str:
    resolution = images.box_size * images.pixel_size_A / max(state.resolution, 1e-6)
    what = f"search moved {100 * state.moved_share:.1f} % of the images" if kind == "search" else "poses refined"
    return (
        f"Round {state.round}: {what}; {float(state.log_likelihood.mean()):.1f} nats per particle, "
        f"halves agree to {resolution:.1f} Å."
    )


def _sums(
    images: ParticleImages, state: RefinementState, settings: ReconstructSettings, monitor: Monitor,
    at_best: bool = False,
) -> tuple[BackprojectionSums, BackprojectionSums]:  # fmt: skip
    """Backprojections of both halves, somewhat beyond the band of the next round, at the best poses or as drawn."""
    reach = min(images.plane.radius, math.ceil(state.radius * GROWTH) + 3)
    # A ring of 2 pi k coefficients per image, over the 4 pi k^2 3^3 grid points of the shell of radius k.
    seen = 0.5 * images.n / (2.0 * 3**3 * reach)
    fine = reach <= FINE_RADIUS and seen >= FINE_SEEN and float(state.error_deg.median()) <= FINE_DEG
    grid = FourierGrid(images.box_size, reach, 3 if fine else 2)
    poses = [(state.rotation, state.shift_px)] if at_best else list(_drawn_poses(images, state, settings))
    halves = []
    for half in (1, 2):
        rows = (images.half_set == half).nonzero()[:, 0]
        parts = (
            backproject(
                images.with_poses(rotation.to(images.rotation), shift_px.to(images.rotation)), rows,
                torch.full(rows.shape, 1.0 / len(poses)), grid, device=settings.device, monitor=monitor,
                description=f"Reconstructing half {half}",
            )
            for rotation, shift_px in poses
        )  # fmt: skip
        halves.append(replace(reduce(operator.add, parts), n_particles=len(rows)))
    return halves[0], halves[1]


def _are_drawn(images: ParticleImages, state: RefinementState, settings: ReconstructSettings) -> bool:
    """Whether poses are so uncertain that maps are made from draws."""
    rms_radius = math.sqrt(0.6) * settings.mask_radius(images.box_size)
    spread_px = torch.hypot(state.error_deg.deg2rad() * rms_radius, state.error_px).median()
    return 2.0 * math.pi * state.radius / images.box_size * float(spread_px) >= LEAST_SPREAD


def _drawn_poses(
    images: ParticleImages, state: RefinementState, settings: ReconstructSettings
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rotations (N, 3, 3) and shifts (N, 2) that maps are made from: the best ones, or draws about them."""
    if not _are_drawn(images, state, settings):
        yield state.rotation, state.shift_px
        return
    rng = np.random.default_rng([settings.seed, state.round])
    turn = state.error_deg.clamp_max(MOST_DEG).deg2rad().numpy()[:, None]
    away = state.error_px.clamp_max(MOST_PX).numpy()[:, None]
    for _ in range(DRAWS):
        turned = Rotation.from_rotvec(rng.normal(size=(images.n, 3)) * turn).as_matrix()
        moved = rng.normal(size=(images.n, 2)) * away
        yield state.rotation @ torch.from_numpy(turned), state.shift_px + torch.from_numpy(moved)


def _round(
    images: ParticleImages, halves: tuple[Tensor, Tensor], kind: Kind, settings: ReconstructSettings,
    state: RefinementState, monitor: Monitor,
) -> RefinementState:  # fmt: skip
    """Poses of all images, or of those that a search has to look at, against the maps of their halves."""
    known = KnownPoses(state.rotation, state.shift_px, state.searches > 0)

    def posed(rows: Tensor) -> tuple[LocalPoses, Tensor]:
        return align_to_halves(images, halves, kind, known, state.radius, rows, settings, monitor)

    rows = torch.arange(images.n)
    if kind == "local":
        poses, turn = posed(rows)
        still = float(turn.median()) < LEAST_TURN * math.sqrt(3.0) * float(poses.error_deg.median())
        return replace(
            _with(state, rows, poses), round=state.round + 1, local_rounds=state.local_rounds + 1, settled=still
        )
    if state.searches and images.n > SAMPLE:
        generator = torch.Generator().manual_seed(settings.seed + state.searches)
        order = torch.randperm(images.n, generator=generator)
        rows, rest = order[:SAMPLE].sort().values, order[SAMPLE:].sort().values
        poses, turn = posed(rows)
        if _share(turn) > 0:
            others, turn_of_others = posed(rest)
            rows, turn, poses = torch.cat([rows, rest]), torch.cat([turn, turn_of_others]), joined([poses, others])
    else:
        poses, turn = posed(rows)
    share = _share(turn) if state.searches else 1.0
    return replace(
        _with(state, rows, poses), round=state.round + 1, searches=state.searches + 1, local_rounds=0,
        moved_share=share, settled=state.searches > 0 and share <= MOVED_SHARE,
    )  # fmt: skip


def _with(state: RefinementState, rows: Tensor, poses: LocalPoses) -> RefinementState:
    """State with other poses of some images."""
    columns = {name: getattr(state, name).clone() for name in POSE_COLUMNS}
    for name, column in columns.items():
        column[rows] = getattr(poses, name)
    return replace(state, **columns)


def _share(turn: Tensor) -> float:
    """Share of images that were moved."""
    return float((turn > MOVED_DEG).double().mean())


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

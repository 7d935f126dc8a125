"""From a rough map to the poses of all particles: rounds of search, local refinement and reconstruction.

The two half-sets never see each other's maps but for the lowest frequencies (see :mod:`.half_references`). The band in
which images are aligned grows with the FSC between the halves. A round searches all orientations (Zhong 2022, Algorithm
2) or refines the poses at hand by Gauss-Newton steps. After every search come local rounds until the resolution stands
still; then a search begins again, with a better map, until it moves next to nothing. Between rounds the particle is
brought back to the centre of the box, and searches look around the shifts that each image has by then, so that
particles picked off centre are found step by step (Zhong 2022, 5.4.2).

Where noise leaves poses so uncertain that it shows in the map, maps are made from poses drawn about the best ones, as
uncertain as they are (the maximisation of a Monte Carlo EM): at its best pose every image shows its own noise as well,
and maps from nothing else converge to where poses fit each other's noise.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryodrgn_ext.fourier.masks import spherical_mask
from cryodrgn_ext.fourier.point_groups import point_group
from cryodrgn_ext.fourier.slices import FourierGrid
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.pose.alignment import Alignment, Kind, align_to_halves
from cryodrgn_ext.pose.centring import centre_of_mass, centred_poses
from cryodrgn_ext.pose.estimates import PoseEstimates, join_estimates
from cryodrgn_ext.pose.half_references import References, make_references
from cryodrgn_ext.pose.particle_scale import FIRST_SPREAD, precision_of, spread_of, with_scales
from cryodrgn_ext.pose.reconstruct_settings import ReconstructSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.reconstruction.backprojection import BackprojectionSums, backproject

#: The band may grow by this factor in a round, and this many shells beyond the resolution.
GROWTH, BEYOND = 1.5, 1.0
#: A search that moves fewer images than this, by more than MOVED_DEG, was the last one; no more than MOST_SEARCHES.
MOVED_SHARE, MOVED_DEG, MOST_SEARCHES = 0.02, 10.0, 4
#: Later searches begin with a sample of so many images, and end there when none of it moves.
SAMPLE = 1000
#: Local rounds end when the resolution gains less than this (shells) in one of them, and when they rotate images by
#: less than this share of what noise leaves uncertain.
LEAST_GAIN, LEAST_ROTATION = 0.3, 0.2
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
    estimates : PoseEstimates
        Of all N images, at the last band.
    radius : float
        Band of the next round, in cycles per box.
    resolution : float
        Shell where the halves' FSC fell below 0.143.
    round, searches, local_rounds : int
        Rounds done; searches among them; local rounds since the last search.
    moved_share : float
        Share of the images that the last search moved.
    converged : bool
        Whether local rounds have nothing more to gain.
    """

    estimates: PoseEstimates
    radius: float
    resolution: float = 0.0
    round: int = 0
    searches: int = 0
    local_rounds: int = 0
    moved_share: float = 1.0
    converged: bool = False

    @property
    def next_kind(self) -> Kind | None:
        """Kind of the next round; None when poses have converged."""
        if self.searches == 0:
            return "search"
        if not self.converged:
            return "local"
        if self.moved_share > MOVED_SHARE and self.searches < MOST_SEARCHES:
            return "search"
        return None


@dataclass(frozen=True)
class Refined:
    """End of a refinement: the last state, the sums over each half at its poses, what they were aligned to."""

    state: RefinementState
    sums1: BackprojectionSums
    sums2: BackprojectionSums
    references: References


def first_state(images: ParticleImages, radius: float) -> RefinementState:
    """State before any pose is known."""
    return RefinementState(PoseEstimates.unknown(images.n), radius)


def refine(
    images: ParticleImages,
    initial_maps: tuple[Float[Tensor, "D D D"], Float[Tensor, "D D D"]],
    settings: ReconstructSettings,
    state: RefinementState,
    monitor: Monitor,
    keep: Callable[[RefinementState], None] | None = None,
) -> Refined:
    """Refine until poses have converged.

    Parameters
    ----------
    images : ParticleImages
        Their poses are not used.
    initial_maps : pair of Tensor
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
    sphere = spherical_mask(d, 0.9 * radius, 0.1 * radius, initial_maps[0].device)
    sums, references = None, None
    if state.searches:
        sums = _sums(images, state, settings, monitor)
        references = make_references(*sums, sphere)
    while (kind := _next_kind(images, state, settings)) is not None and state.round < settings.rounds:
        halves = initial_maps if references is None else (references.half1, references.half2)
        state = _round(images, halves, kind, settings, state, monitor)
        sums = _sums(images, state, settings, monitor)
        references = make_references(*sums, sphere)
        state, moved = _centred(state, references, settings)
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
    """Kind of the next round; None when all is done."""
    if state.next_kind is None and state.local_rounds < LAST_ROUNDS and _are_drawn(images, state, settings):
        return "local"
    return state.next_kind


def _sentence(images: ParticleImages, state: RefinementState, kind: Kind) -> str:
    resolution = images.box_size * images.pixel_size_A / max(state.resolution, 1e-6)
    what = f"search moved {100 * state.moved_share:.1f} % of the images" if kind == "search" else "poses refined"
    return (
        f"Round {state.round}: {what}; {float(state.estimates.log_likelihood.mean()):.1f} nats per particle, "
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
    fine = reach <= FINE_RADIUS and seen >= FINE_SEEN and float(state.estimates.error_deg.median()) <= FINE_DEG
    grid = FourierGrid(images.box_size, reach, 3 if fine else 2)
    poses = [state.estimates.poses] if at_best else list(_drawn_poses(images, state, settings))
    scaled = with_scales(images, state.estimates.scale)
    halves = []
    for half in (1, 2):
        rows = (images.half_set == half).nonzero()[:, 0]
        parts = (
            backproject(
                scaled.with_poses(one), rows, torch.full(rows.shape, 1.0 / len(poses)), grid,
                point_group(settings.symmetry), settings.device, monitor, f"Reconstructing half {half}",
            )
            for one in poses
        )  # fmt: skip
        halves.append(replace(reduce(operator.add, parts), n_particles=len(rows)))
    return halves[0], halves[1]


def _are_drawn(images: ParticleImages, state: RefinementState, settings: ReconstructSettings) -> bool:
    """Whether poses are so uncertain that maps are made from draws."""
    rms_radius = math.sqrt(0.6) * settings.mask_radius(images.box_size)
    estimates = state.estimates
    spread_px = torch.hypot(estimates.error_deg.deg2rad() * rms_radius, estimates.error_px).median()
    return 2.0 * math.pi * state.radius / images.box_size * float(spread_px) >= LEAST_SPREAD


def _drawn_poses(images: ParticleImages, state: RefinementState, settings: ReconstructSettings) -> Iterator[Poses]:
    """Poses (N,) that maps are made from: the best ones, or draws about them."""
    best = state.estimates.poses
    if not _are_drawn(images, state, settings):
        yield best
        return
    rng = np.random.default_rng([settings.seed, state.round])
    spread = state.estimates.error_deg.clamp_max(MOST_DEG).deg2rad().numpy()[:, None]
    spread_px = state.estimates.error_px.clamp_max(MOST_PX).numpy()[:, None]
    for _ in range(DRAWS):
        rotation = Rotation.from_rotvec(rng.normal(size=(images.n, 3)) * spread).as_matrix()
        moved = rng.normal(size=(images.n, 2)) * spread_px
        yield Poses(best.rotation @ torch.from_numpy(rotation), best.shift_px + torch.from_numpy(moved))


def _round(
    images: ParticleImages, halves: tuple[Tensor, Tensor], kind: Kind, settings: ReconstructSettings,
    state: RefinementState, monitor: Monitor,
) -> RefinementState:  # fmt: skip
    """Poses of all images, or of those that a search has to look at, against the maps of their halves."""
    spread = spread_of(state.estimates.scale, state.estimates.scale_error) if state.searches else FIRST_SPREAD
    how = Alignment(
        kind, state.radius, settings, known=state.searches > 0, scale_precision=precision_of(images, spread)
    )

    def aligned(rows: Tensor) -> tuple[PoseEstimates, Tensor]:
        return align_to_halves(images, halves, state.estimates.poses, how, rows, monitor)

    rows = torch.arange(images.n)
    if kind == "local":
        found, rotated_deg = aligned(rows)
        still = float(rotated_deg.median()) < LEAST_ROTATION * math.sqrt(3.0) * float(found.error_deg.median())
        return replace(
            state, estimates=state.estimates.updated(rows, found), round=state.round + 1,
            local_rounds=state.local_rounds + 1, converged=still,
        )  # fmt: skip
    if state.searches and images.n > SAMPLE:
        generator = torch.Generator().manual_seed(settings.seed + state.searches)
        order = torch.randperm(images.n, generator=generator)
        rows, rest = order[:SAMPLE].sort().values, order[SAMPLE:].sort().values
        found, rotated_deg = aligned(rows)
        if moved_share(rotated_deg) > 0:
            others, others_deg = aligned(rest)
            rows, rotated_deg = torch.cat([rows, rest]), torch.cat([rotated_deg, others_deg])
            found = join_estimates([found, others])
    else:
        found, rotated_deg = aligned(rows)
    share = moved_share(rotated_deg) if state.searches else 1.0
    return replace(
        state, estimates=state.estimates.updated(rows, found), round=state.round + 1, searches=state.searches + 1,
        local_rounds=0, moved_share=share, converged=state.searches > 0 and share <= MOVED_SHARE,
    )  # fmt: skip


def moved_share(rotated_deg: Float[Tensor, " n"]) -> float:
    """Share of images whose rotation changed, given by how many degrees (n,) each did."""
    return float((rotated_deg > MOVED_DEG).double().mean())


def _centred(
    state: RefinementState, references: References, settings: ReconstructSettings
) -> tuple[RefinementState, bool]:
    """Bring the particle to the centre of the box, as far as its symmetry allows, if it is off by half a voxel."""
    offset = centre_of_mass(references.half1 + references.half2).cpu()
    # What all rotations of the group leave as it is: all of it, a part along an axis, or nothing.
    free = torch.from_numpy(point_group(settings.symmetry).rotations.mean(0)).to(offset)
    offset = free @ offset
    if float(offset.abs().max()) < 0.5:
        return state, False
    poses = centred_poses(state.estimates.poses, offset)
    return replace(state, estimates=replace(state.estimates, poses=poses)), True


def _judged(state: RefinementState, references: References, kind: Kind, limit: int) -> RefinementState:
    """Band of the next round, and whether local rounds still gain resolution."""
    resolution = references.radius
    gain = resolution - state.resolution
    grown = min(resolution + BEYOND, state.radius * GROWTH + 1.0, float(limit))
    radius = max(state.radius, grown)
    converged = state.converged
    if kind == "local":
        still_growing = gain >= LEAST_GAIN or radius > state.radius + 0.5
        converged = (state.converged and not still_growing) or state.local_rounds >= MOST_LOCAL_ROUNDS
    return replace(state, resolution=resolution, radius=radius, converged=converged)

"""Search for poses: a whole grid at a low band, then the best candidates refined as the band grows.

Algorithm 2 of Zhong 2022 (5.3.2, 5.6.1). Every image is held against all rotations of a base grid, each with its best
shift; the K best rotations go on, each divided into eight, with shifts on a grid of half the extent about its best
one; M times, while the band grows linearly from k_min to k_max.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier import so3_grid
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.pose.estimates import ScoredPoses
from cryodrgn_ext.pose.groups import GroupScorer, ImageGroups
from cryodrgn_ext.pose.model import SliceModel, as_model
from cryodrgn_ext.pose.scoring import DEFAULT_MEMORY_BYTES, Scorer
from cryodrgn_ext.pose.shift_grid import shift_grid
from cryodrgn_ext.progress import Monitor, SilentMonitor

MOST_IMAGES_AT_ONCE = 1024  # keeps the progress bar moving
REACH = 4  # times as many rotations as are kept are looked at for some that lie apart
BYTES_PER_COEFFICIENT = 32  # of an image that is held, with what loading it takes


@dataclass(frozen=True)
class SearchSettings:
    """Settings of a search; the defaults are cryoDRGN2's, where they do not depend on the box.

    Attributes
    ----------
    base_level : int
        Grid that is searched whole: 0, 1, 2 for 30°, 15°, 7.5°.
    refinements : int
        M, how often rotations are divided and the spacing of shifts halved.
    keep : int
        K, rotations that are refined.
    k_min, k_max : float
        Band of the base grid and of the last refinement, in cycles per box; all coefficients when ``k_max`` is None.
    shift_extent_px : float
        Shifts are searched in [-extent, extent]², in pixels of the working box. 0: no shifts.
    shift_count : int
        Shifts along each edge of the grid.
    keep_final : int
        Candidates returned for each image (at most ``keep``).
    apart : float
        Rotations that are kept lie at least this many grid spacings apart, as far as the likeliest few (``REACH`` times
        as many as are kept) allow, so that other peaks of the likelihood are not crowded out by neighbours of the
        highest one. 0: the likeliest ones, as in Algorithm 2.
    memory_bytes : int
        Bound of working memory; it does not change the result.
    device : str, optional
        Where to compute; where the poses of the images are when None.
    scale_precision : float, optional
        Of the particle scale, see :mod:`.particle_scale`; all scales are 1 when None.
    """

    base_level: int = 1
    refinements: int = 4
    keep: int = 8
    k_min: float = 12.0
    k_max: float | None = None
    shift_extent_px: float = 10.0
    shift_count: int = 7
    keep_final: int = 1
    apart: float = 0.0
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    device: str | None = None
    scale_precision: float | None = None

    def band(self, step: int, largest: float) -> float:
        """Radius of refinement ``step`` (0 is the base grid), for images with |k| up to ``largest``."""
        high = largest if self.k_max is None else self.k_max
        low = min(self.k_min, high)
        return low if self.refinements == 0 else low + (high - low) * step / self.refinements

    def where(self, images: ParticleImages) -> torch.device:
        """The device to compute on."""
        return torch.device(images.rotation.device if self.device is None else self.device)

    def check(self, images: ParticleImages) -> None:
        """Refuse what cannot be.

        Raises
        ------
        InputError
        """
        radius = images.plane.radius
        bounds = (
            ("base_level", self.base_level, 0, 3), ("refinements", self.refinements, 0, 12),
            ("keep", self.keep, 1, 4096), ("k_min", self.k_min, 1, radius),
            ("k_max", radius if self.k_max is None else self.k_max, 1, radius),
            ("shift_extent_px", self.shift_extent_px, 0, images.box_size / 2),
            ("shift_count", self.shift_count, 1, 181), ("apart", self.apart, 0, 12),
        )  # fmt: skip
        for name, value, low, high in bounds:
            if not low <= value <= high:
                raise InputError(
                    f"pose search: {name} is {value:g}, but must lie in {low}..{high:g} for images of "
                    f"{images.box_size} px with |k| up to {radius} cycles per box"
                )


#: Search of some images at a time, see :func:`sweep`.
Batch = Callable[[GroupScorer], tuple[Tensor, Tensor, Tensor]]


def search(
    images: ParticleImages,
    model: SliceModel | FourierVolume,
    settings: SearchSettings,
    rows: Int[Tensor, " N"] | None = None,
    monitor: Monitor | None = None,
    groups: ImageGroups | None = None,
) -> ScoredPoses:
    """Find the pose of every image.

    Parameters
    ----------
    images : ParticleImages
        The poses that they have are not used.
    model : SliceModel or FourierVolume
    settings : SearchSettings
    rows : Tensor, optional
        (N,) int64 particles to search for; all when omitted.
    monitor : Monitor, optional
    groups : ImageGroups, optional
        P groups of S images that share a particle, in place of ``rows``. What is returned is that of image (p, s) in
        row ``p * S + s``; its log-likelihood is the group's.

    Returns
    -------
    ScoredPoses
        (N, ``settings.keep_final``) candidates, best first, scored at the last band.

    Raises
    ------
    InputError
        When a setting does not fit the images.
    """
    some = as_model(model, settings.where(images))
    return sweep(images, settings, rows, groups, monitor, lambda scorer: _search_some(scorer, some, settings, images))


def sweep(
    images: ParticleImages,
    settings: SearchSettings,
    rows: Int[Tensor, " N"] | None,
    groups: ImageGroups | None,
    monitor: Monitor | None,
    search_some: Batch,
) -> ScoredPoses:
    """Search some images at a time, as many as the memory allows; parameters as in :func:`search`.

    ``search_some`` gets the images and returns their best candidates: rotations (B, k, 3, 3), shifts (B, k, S, 2) and
    log-likelihoods (B, k), best first.
    """
    settings.check(images)
    monitor = SilentMonitor() if monitor is None else monitor
    groups = ImageGroups.single(torch.arange(images.n) if rows is None else rows) if groups is None else groups
    n, size, kept = len(groups.rows), groups.size, min(settings.keep_final, settings.keep)
    rotation = torch.empty(n, size, kept, 3, 3)
    shift_px = torch.empty(n, size, kept, 2)
    value = torch.full((n, size, kept), -torch.inf)
    last = settings.band(settings.refinements, images.plane.radius)
    per_image = size * BYTES_PER_COEFFICIENT * images.plane.prefix(last)
    if size > 1:  # the scores of all rotations are held, to be added up
        per_image += (4 + 6 * size) * so3_grid.n_rotations(settings.base_level)
    each = max(1, min(MOST_IMAGES_AT_ONCE, settings.memory_bytes // (2 * per_image)))
    for start in monitor.track(range(0, n, each), "Searching poses", n, each):
        part = slice(start, min(start + each, n))
        members = groups.part(part)
        memory = settings.memory_bytes // 2
        scorers = [
            Scorer(images, members.rows[:, s], last, settings.device, memory, settings.scale_precision)
            for s in range(size)
        ]
        found, moved, score = search_some(GroupScorer(scorers, members))
        for s in range(size):
            rotation[part, s], shift_px[part, s] = members.rotations(found, s)[:, :kept], moved[:, :kept, s]
        value[part] = score[:, None, :kept]
    return ScoredPoses(Poses(rotation.flatten(0, 1), shift_px.flatten(0, 1)), value.flatten(0, 1))


def _search_some(
    scorer: GroupScorer, model: SliceModel, settings: SearchSettings, images: ParticleImages
) -> tuple[Tensor, Tensor, Tensor]:
    """Algorithm 2 for some images: their best candidates, see :func:`sweep`."""
    largest = images.plane.radius
    count = settings.shift_count if settings.shift_extent_px > 0 else 1
    shifts = shift_grid(settings.shift_extent_px, count)
    base = torch.from_numpy(so3_grid.grid(settings.base_level)).float()
    wide = settings.keep if settings.apart == 0 else REACH * settings.keep
    top = scorer.top(model, base, shifts, wide, settings.band(0, largest))
    index, centre, value = top.rotation.cpu().numpy(), shifts[top.shift.cpu()], top.log_likelihood.cpu()
    if settings.apart:
        order = apart_places(index, settings.base_level, settings.keep, settings.apart)
        index = np.take_along_axis(index, order.numpy(), axis=1)
        centre, value = centre.take_along_dim(order[..., None, None], dim=1), value.take_along_dim(order, dim=1)
    for step in range(1, settings.refinements + 1):
        level = settings.base_level + step
        index = so3_grid.children(level - 1, index).reshape(len(index), -1)
        centre = centre.repeat_interleave(8, dim=1)
        rotation = torch.from_numpy(so3_grid.rotations(level, index)).float()
        offsets = shift_grid(settings.shift_extent_px / 2**step, count)
        scores, moves = scorer.own(model, rotation, centre, offsets, settings.band(step, largest))
        keep = settings.keep if step < settings.refinements else min(settings.keep_final, settings.keep)
        here = scores.topk(min(keep if settings.apart == 0 else REACH * keep, scores.shape[1]), dim=1)
        order = here.indices.cpu()
        if settings.apart:
            of_these = np.take_along_axis(index, order.numpy(), axis=1)
            order = order.take_along_dim(apart_places(of_these, level, keep, settings.apart), dim=1)
        index = np.take_along_axis(index, order.numpy(), axis=1)
        centre = (centre + offsets[moves.cpu()]).take_along_dim(order[..., None, None], dim=1)
        value = scores.cpu().take_along_dim(order, dim=1)
    level = settings.base_level + settings.refinements
    return torch.from_numpy(so3_grid.rotations(level, index)).float(), centre, value


def apart_places(index: Int[np.ndarray, "B C"], level: int, keep: int, apart: float) -> Int[Tensor, "B kept"]:
    """Places (B, keep) of rotations that lie apart, among (B, C) indices into a grid, likeliest first.

    One after another is taken that is at least ``apart`` spacings from all that were taken before; then the likeliest
    of the others, if that was too few. What is returned is in the order of ``index``.
    """
    n_images, n_candidates = index.shape
    keep = min(keep, n_candidates)
    flat = torch.from_numpy(so3_grid.rotations(level, index)).float().flatten(2)
    least = 1.0 + 2.0 * math.cos(math.radians(min(180.0, apart * so3_grid.spacing_deg(level))))
    near = flat @ flat.mT > least  # traces of the rotations between them
    free = torch.ones(n_images, n_candidates, dtype=torch.bool)
    taken = torch.zeros_like(free)
    for place in range(n_candidates):
        chosen = free[:, place] & (taken.sum(1) < keep)
        taken[:, place] = chosen
        free &= ~(near[:, place] & chosen[:, None])
    # Those taken first, each group likeliest first; then as many as are kept, likeliest first.
    rank = torch.arange(n_candidates).expand_as(taken) + n_candidates * (~taken)
    order: Tensor = rank.argsort(dim=1)[:, :keep].sort(dim=1).values
    return order

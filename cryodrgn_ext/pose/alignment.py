"""Alignment of many images to given maps: a search over all orientations, or a refinement of the poses at hand.

Both half-sets are aligned to maps of their own. Images pass through memory some thousands at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryodrgn_ext.fourier.point_groups import C1, PointGroup, point_group
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.images.poses import Poses, join_poses
from cryodrgn_ext.pose.all_orientations import search_orientations
from cryodrgn_ext.pose.centring import recentred
from cryodrgn_ext.pose.estimates import PoseEstimates, join_estimates
from cryodrgn_ext.pose.found_symmetry import differences, smallest_deg
from cryodrgn_ext.pose.local import DifferentiableVolume, refine_poses
from cryodrgn_ext.pose.metrics import pose_errors
from cryodrgn_ext.pose.model import LinearModel, SliceModel, as_model
from cryodrgn_ext.pose.reconstruct_settings import ReconstructSettings
from cryodrgn_ext.pose.scoring import Scorer
from cryodrgn_ext.pose.search import SearchSettings
from cryodrgn_ext.progress import Monitor

Kind = Literal["search", "local"]

#: Band of the base grid of searches and the band of their refinement, in cycles per box.
BASE_RADIUS, SEARCH_RADIUS = 8.0, 12.0
#: Refinements of a search, rotations kept in it, and candidates that are refined further.
REFINEMENTS, KEPT, CANDIDATES = 1, 12, 6
#: Spacings of the grid between rotations that are kept: steps from one of them reach what lies between.
APART = 1.2
GAUSS_NEWTON_STEPS = 4
MOST_IMAGES_AT_ONCE, BYTES_PER_COEFFICIENT = 4096, 48


@dataclass(frozen=True)
class Alignment:
    """A way to align images.

    Attributes
    ----------
    kind : {"search", "local"}
    radius : float
        Largest |k| that counts, in cycles per box.
    settings : ReconstructSettings
    known : bool
        Whether the poses at hand mean anything yet. If so, a search keeps them where nothing fits better; if not, it
        takes no notice of them but for the shifts, around which it looks.
    scale_precision : float, optional
        Of the particle scale, see :mod:`.particle_scale`; all scales are 1 when None.
    """

    kind: Kind
    radius: float
    settings: ReconstructSettings
    known: bool = True
    scale_precision: float | None = None


@dataclass(frozen=True)
class Reference:
    """Map, or maps with weights of each image, that images are aligned to.

    Attributes
    ----------
    field : DifferentiableVolume
    weights : Tensor, optional
        (N, C) float32 of the field's maps in the volume of each of all images; None when there is one map.
    """

    field: DifferentiableVolume
    weights: Tensor | None = None

    def model(self) -> SliceModel | FourierVolume:
        """The same as a search takes it."""
        one = [
            FourierVolume(self.field.grid, self.field.fields[..., c, 0].contiguous())
            for c in range(self.field.n_components)
        ]
        if self.weights is None:
            return one[0]
        if bool((self.weights[:, 0] != 1).any()):
            raise ValueError("the first map must have weight 1 in every image")
        return LinearModel(one[0], one[1:], self.weights[:, 1:])


def search_settings(
    images: ParticleImages, settings: ReconstructSettings, radius: float, scale_precision: float | None = None
) -> SearchSettings:
    """Settings of a search over all orientations when images are aligned up to ``radius`` cycles per box."""
    d = images.box_size
    extent, base = settings.shift_extent(d), min(BASE_RADIUS, radius)
    return SearchSettings(
        base_level=1, refinements=REFINEMENTS, keep=KEPT, k_min=base, k_max=min(SEARCH_RADIUS, radius),
        shift_extent_px=extent, shift_count=2 * max(1, math.ceil(extent * 4 * base / d - 0.5)) + 1,
        keep_final=CANDIDATES, apart=APART, memory_bytes=settings.memory_bytes, device=settings.device,
        scale_precision=scale_precision,
    )  # fmt: skip


def align_to_halves(
    images: ParticleImages,
    halves: tuple[Float[Tensor, "D D D"], Float[Tensor, "D D D"]],
    poses: Poses,
    how: Alignment,
    rows: Int[Tensor, " n"],
    monitor: Monitor,
) -> tuple[PoseEstimates, Float[Tensor, " n"]]:
    """Align images to the maps of their half-sets.

    Parameters
    ----------
    images : ParticleImages
    halves : pair of Tensor
        (D, D, D) each.
    poses : Poses
        (N,) float64 at hand, of all images.
    how : Alignment
    rows : Tensor
        (n,) int64 images to align.
    monitor : Monitor

    Returns
    -------
    (PoseEstimates, Tensor)
        In the order of ``rows``, and (n,) degrees by which each rotation changed.
    """
    reach = min(math.ceil(how.radius) + 1, images.box_size // 2)
    first = Reference(DifferentiableVolume.from_maps(halves[0][None], reach))
    second = first if halves[1] is halves[0] else Reference(DifferentiableVolume.from_maps(halves[1][None], reach))
    half_of = images.half_set[rows]
    parts, places = [], []
    for half, reference in ((1, first), (2, second)):
        members = (half_of == half).nonzero()[:, 0]
        label = f"{'Searching' if how.kind == 'search' else 'Refining'} poses of half {half}"
        parts.append(align_images(images, reference, poses, how, rows[members], monitor, label))
        places.append(members)
    found = join_estimates(parts)[torch.cat(places).argsort()]
    return found, degrees_between(poses.rotation[rows], found.poses.rotation, point_group(how.settings.symmetry))


def align_images(
    images: ParticleImages,
    reference: Reference,
    poses: Poses,
    how: Alignment,
    rows: Int[Tensor, " n"],
    monitor: Monitor,
    label: str,
) -> PoseEstimates:
    """Align images (n,) to a reference; other parameters as in :func:`align_to_halves`."""
    pieces = list(_pieces(images, rows, how))
    # Once for all pieces: a model keeps its volumes as the kernels want them.
    model = as_model(
        reference.model(), torch.device(images.rotation.device if how.settings.device is None else how.settings.device)
    )
    parts = []
    for piece in monitor.track(pieces, label, len(rows), len(pieces[0]) if pieces else 1):
        candidates = poses[piece, None]
        if how.kind == "search":
            # Around the shifts at hand: a particle off by more than the extent is reached in a later search.
            looking = search_settings(images, how.settings, how.radius, how.scale_precision)
            moved = recentred(images, poses.shift_px)
            found = search_orientations(how.settings.search, moved, model, looking, piece).poses
            searched = found.to(torch.float64).moved(candidates.shift_px)
            candidates = join_poses([candidates, searched], 1) if how.known else searched
        parts.append(_best_refined(images, reference, model, candidates, how, piece))
    return join_estimates(parts)


def _best_refined(
    images: ParticleImages, reference: Reference, model: SliceModel, candidates: Poses, how: Alignment, rows: Tensor
) -> PoseEstimates:
    """Best of each image's candidates (b, K), each refined."""
    each = candidates.rotation.shape[1]
    repeated = rows.repeat_interleave(each)
    scorer = Scorer(images, repeated, how.radius, how.settings.device, how.settings.memory_bytes)
    weights = None if reference.weights is None else reference.weights[repeated]
    poses = Poses(candidates.rotation.flatten(0, 1), candidates.shift_px.flatten(0, 1))
    scale = None
    if how.scale_precision is not None:
        scale = scorer.scales(model, poses, how.scale_precision, how.radius)
        scorer = scorer.scaled(scale.mean)
    if how.kind == "search" and how.radius > SEARCH_RADIUS:
        # In the search's own band first: in the full one, it may lie beyond the nearest optimum.
        poses = refine_poses(scorer, reference.field, poses, SEARCH_RADIUS, weights, GAUSS_NEWTON_STEPS).poses
    refined = refine_poses(scorer, reference.field, poses, how.radius, weights, GAUSS_NEWTON_STEPS)
    if scale is not None:
        fit = refined.log_likelihood - scale.penalty
        refined = replace(refined, log_likelihood=fit, scale=scale.mean, scale_error=scale.error)
    best = refined.log_likelihood.view(-1, each).argmax(1)
    return refined[torch.arange(len(rows), device=best.device) * each + best]


def degrees_between(
    one: Float[Tensor, "n 3 3"], two: Float[Tensor, "n 3 3"], symmetry: PointGroup = C1
) -> Float[Tensor, " n"]:
    """(n,) angles between rotations (n, 3, 3) of a model, up to its symmetry."""
    none = torch.zeros(len(one), 2, dtype=torch.float64)
    if symmetry.order == 1:
        return torch.from_numpy(pose_errors(Poses(one, none), Poses(two, none)).degrees)
    difference = differences(one.cpu().double().numpy(), two.cpu().double().numpy())
    return torch.from_numpy(smallest_deg(difference, symmetry.rotations))


def _pieces(images: ParticleImages, rows: Tensor, how: Alignment) -> Iterator[Tensor]:
    """Rows that are held in memory at a time."""
    count = images.plane.prefix(how.radius)
    held = 2 * BYTES_PER_COEFFICIENT * (CANDIDATES + 1) * count
    yield from rows.split(max(1, min(MOST_IMAGES_AT_ONCE, how.settings.memory_bytes // held)))

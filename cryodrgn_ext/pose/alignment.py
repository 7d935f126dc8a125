"""Poses of many images against given maps, a search over all orientations or a refinement of what is known.

Both half-sets are posed against maps of their own. Images pass through memory some thousands at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.pose.centring import recentred
from cryodrgn_ext.pose.local import DifferentiableVolume, LocalPoses, joined, refine_poses
from cryodrgn_ext.pose.metrics import pose_errors
from cryodrgn_ext.pose.model import LinearModel, SliceModel
from cryodrgn_ext.pose.scoring import Scorer
from cryodrgn_ext.pose.search import SearchSettings, search
from cryodrgn_ext.pose.settings import ReconstructSettings
from cryodrgn_ext.progress import Monitor

Kind = Literal["search", "local"]

#: Band of the base grid of searches and the band of their refinement, in cycles per box.
BASE_RADIUS, SEARCH_RADIUS = 8.0, 12.0
#: Refinements of a search, rotations kept in it, and candidates that are refined further.
REFINEMENTS, KEPT, REFINED_FURTHER = 1, 12, 6
#: Spacings of the grid between rotations that are kept: steps from one of them reach what lies between.
APART = 1.2
GAUSS_NEWTON_STEPS = 4
MOST_IMAGES_AT_ONCE, BYTES_PER_COEFFICIENT = 4096, 48


@dataclass(frozen=True)
class KnownPoses:
    """Poses that a round begins from.

    Attributes
    ----------
    rotation : Tensor
        (N, 3, 3) float64 of all images.
    shift_px : Tensor
        (N, 2) float64.
    candidates : bool
        Whether the poses mean anything yet; if not, a search takes no notice of them but for the shifts.
    """

    rotation: Tensor
    shift_px: Tensor
    candidates: bool = True


@dataclass(frozen=True)
class Reference:
    """What images are held against.

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


def search_settings(images: ParticleImages, settings: ReconstructSettings, radius: float) -> SearchSettings:
    """How all orientations are searched when images are aligned up to ``radius`` cycles per box."""
    d = images.box_size
    extent, base = settings.shift_extent(d), min(BASE_RADIUS, radius)
    return SearchSettings(
        base_level=1, refinements=REFINEMENTS, keep=KEPT, k_min=base, k_max=min(SEARCH_RADIUS, radius),
        shift_extent_px=extent, shift_count=2 * max(1, math.ceil(extent * 4 * base / d - 0.5)) + 1,
        keep_final=REFINED_FURTHER, apart=APART, memory_bytes=settings.memory_bytes, device=settings.device,
    )  # fmt: skip


def align_to_halves(
    images: ParticleImages, halves: tuple[Tensor, Tensor], kind: Kind, known: KnownPoses, radius: float, rows: Tensor,
    settings: ReconstructSettings, monitor: Monitor,
) -> tuple[LocalPoses, Tensor]:  # fmt: skip
    """Pose images against the maps of their half-sets.

    Parameters
    ----------
    images : ParticleImages
    halves : pair of Tensor
        (D, D, D) each.
    kind : {"search", "local"}
    known : KnownPoses
        A search keeps the pose at hand where nothing fits better.
    radius : float
        Largest |k| that counts, in cycles per box.
    rows : Tensor
        (n,) int64 images to pose.
    settings : ReconstructSettings
    monitor : Monitor

    Returns
    -------
    (LocalPoses, Tensor)
        Poses in the order of ``rows``, and (n,) degrees by which each of them turned.
    """
    reach = min(math.ceil(radius) + 1, images.box_size // 2)
    first = Reference(DifferentiableVolume.from_maps(halves[0][None], reach))
    second = first if halves[1] is halves[0] else Reference(DifferentiableVolume.from_maps(halves[1][None], reach))
    half_of = images.half_set[rows]
    parts, places = [], []
    for half, reference in ((1, first), (2, second)):
        members = (half_of == half).nonzero()[:, 0]
        label = f"{'Searching' if kind == 'search' else 'Refining'} poses of half {half}"
        parts.append(align_images(images, reference, kind, known, radius, rows[members], settings, monitor, label))
        places.append(members)
    poses = joined(parts).chosen(torch.cat(places).argsort())
    return poses, degrees_between(known.rotation[rows], poses.rotation)


def align_images(
    images: ParticleImages, reference: Reference, kind: Kind, known: KnownPoses, radius: float, rows: Tensor,
    settings: ReconstructSettings, monitor: Monitor, label: str,
) -> LocalPoses:  # fmt: skip
    """Pose images (n,) against a reference; other parameters as in :func:`align_to_halves`."""
    pieces = list(_pieces(images, rows, radius, settings))
    parts = []
    for piece in monitor.track(pieces, label, len(rows), len(pieces[0]) if pieces else 1):
        rotation, shift = known.rotation[piece, None], known.shift_px[piece, None]
        if kind == "search":
            # Around the shifts at hand: a particle off by more than the extent is reached in a later search.
            centre = known.shift_px
            looking = search_settings(images, settings, radius)
            found = search(recentred(images, centre), reference.model(), looking, piece).candidates
            if found is None:
                raise ValueError("a search for several candidates returned none")
            searched = found.rotation.double(), found.shift_px.double() + shift
            if known.candidates:
                rotation, shift = torch.cat([rotation, searched[0]], 1), torch.cat([shift, searched[1]], 1)
            else:
                rotation, shift = searched
        parts.append(_best_refined(images, reference, kind, piece, rotation, shift, radius, settings))
    return joined(parts)


def _best_refined(
    images: ParticleImages, reference: Reference, kind: Kind, rows: Tensor, rotation: Tensor, shift_px: Tensor,
    radius: float, settings: ReconstructSettings,
) -> LocalPoses:  # fmt: skip
    """Best of each image's candidates (b, K, 3, 3), (b, K, 2), each refined."""
    each = rotation.shape[1]
    repeated = rows.repeat_interleave(each)
    scorer = Scorer(images, repeated, radius, settings.device, settings.memory_bytes)
    weights = None if reference.weights is None else reference.weights[repeated]
    rotation, shift_px = rotation.flatten(0, 1), shift_px.flatten(0, 1)
    if kind == "search" and radius > SEARCH_RADIUS:
        # In the search's own band first: in the full one, it may lie beyond the nearest optimum.
        near = refine_poses(
            scorer, reference.field, rotation, shift_px, SEARCH_RADIUS, weights, iterations=GAUSS_NEWTON_STEPS
        )
        rotation, shift_px = near.rotation, near.shift_px
    refined = refine_poses(scorer, reference.field, rotation, shift_px, radius, weights, GAUSS_NEWTON_STEPS)
    best = refined.log_likelihood.view(-1, each).argmax(1)
    return refined.chosen(torch.arange(len(rows), device=best.device) * each + best)


def degrees_between(one: Tensor, two: Tensor) -> Tensor:
    """(n,) angles between rotations (n, 3, 3)."""
    zero: NDArray[np.float64] = np.zeros((len(one), 2))
    return torch.from_numpy(pose_errors(one.cpu().numpy(), zero, two.cpu().numpy(), zero).degrees)


def _pieces(images: ParticleImages, rows: Tensor, radius: float, settings: ReconstructSettings) -> Iterator[Tensor]:
    """Rows that are held in memory at a time."""
    count = images.plane.prefix(radius)
    held = 2 * BYTES_PER_COEFFICIENT * (REFINED_FURTHER + 1) * count
    yield from rows.split(max(1, min(MOST_IMAGES_AT_ONCE, settings.memory_bytes // held)))

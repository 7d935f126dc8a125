"""Two independent half-maps, their FSC, and the Wiener-filtered map of all particles: the consensus of every job."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.fsc import fsc, resolution_A
from cryodrgn_ext.fourier.masks import spherical_mask
from cryodrgn_ext.fourier.point_groups import C1, PointGroup
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.reconstruction.backprojection import BackprojectionSums, backproject, wiener_precision

GOLD_STANDARD_FSC = 0.143


@dataclass(frozen=True)
class HalfMaps:
    """A reconstruction in two halves.

    Attributes
    ----------
    half1, half2 : ndarray
        (D, D, D) float32, unfiltered maps of the two half-sets.
    map : ndarray
        (D, D, D) float32, of all particles, Wiener-filtered with the FSC.
    fsc : ndarray
        (D // 2 + 1,) float64 between the halves, within the mask; 0 beyond the images' band.
    resolution_A : float
        Where the FSC falls below 0.143.
    pixel_size_A : float
    symmetry : PointGroup
        That was imposed.
    """

    half1: NDArray[np.float32]
    half2: NDArray[np.float32]
    map: NDArray[np.float32]
    fsc: NDArray[np.float64]
    resolution_A: float
    pixel_size_A: float
    symmetry: PointGroup = C1


def combine_halves(
    sums1: BackprojectionSums, sums2: BackprojectionSums, pixel_size_A: float, mask: Tensor | None = None
) -> HalfMaps:
    """Half-maps, FSC and Wiener-filtered map from the sums over the two half-sets.

    Parameters
    ----------
    sums1, sums2 : BackprojectionSums
    pixel_size_A : float
    mask : Tensor, optional
        (D, D, D) soft mask for the FSC; a soft sphere that nearly fills the box when omitted.
    """
    d = sums1.grid.box_size
    half1, half2 = sums1.solve(), sums2.solve()
    around = default_fsc_mask(d) if mask is None else mask
    curve = fsc(half1, half2, around.to(half1.device))
    curve[sums1.grid.radius + 1 :] = 0.0  # nothing was measured there
    both = sums1 + sums2
    combined = both.solve(wiener_precision(both, torch.from_numpy(curve)))
    return HalfMaps(
        half1=half1.cpu().numpy(),
        half2=half2.cpu().numpy(),
        map=combined.cpu().numpy(),
        fsc=curve,
        resolution_A=resolution_A(curve, pixel_size_A, d, GOLD_STANDARD_FSC),
        pixel_size_A=pixel_size_A,
        symmetry=sums1.symmetry,
    )


def with_mask(
    maps: HalfMaps, sums1: BackprojectionSums, sums2: BackprojectionSums, mask: Float[Tensor, "D D D"]
) -> HalfMaps:
    """Return what :func:`combine_halves` gives with another mask, from its result and the same sums: FSC, map anew."""
    d = sums1.grid.box_size
    device = sums1.weight.device
    half1, half2 = torch.from_numpy(maps.half1).to(device), torch.from_numpy(maps.half2).to(device)
    curve = fsc(half1, half2, mask.to(device))
    curve[sums1.grid.radius + 1 :] = 0.0
    both = sums1 + sums2
    combined = both.solve(wiener_precision(both, torch.from_numpy(curve)))
    resolution = resolution_A(curve, maps.pixel_size_A, d, GOLD_STANDARD_FSC)
    return replace(maps, map=combined.cpu().numpy(), fsc=curve, resolution_A=resolution)


def default_fsc_mask(box_size: int) -> Float32[Tensor, "D D D"]:
    """(D, D, D) soft sphere that nearly fills the box: gridding correction amplifies the noise in the corners."""
    return spherical_mask(box_size, 0.85 * box_size / 2, 0.14 * box_size / 2)


def reconstruct_half_maps(
    images: ParticleImages,
    indices: Tensor | None = None,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    symmetry: PointGroup = C1,
    device: torch.device | str | None = None,
    monitor: Monitor | None = None,
) -> HalfMaps:
    """Reconstruct any subset of the particles, weighted or not, in two independent halves.

    Parameters
    ----------
    images : ParticleImages
        ``images.half_set`` says which half each particle belongs to.
    indices : Tensor, optional
        (n,) int64 rows; all when omitted.
    weights : Tensor, optional
        (n,) non-negative.
    mask : Tensor, optional
        (D, D, D) soft mask for the FSC.
    symmetry, device, monitor
        See :func:`backproject`.

    Raises
    ------
    InputError
        When one of the halves has no particles.
    """
    rows = torch.arange(images.n) if indices is None else indices.cpu().long()
    halves = images.half_set[rows]
    sums = []
    for half in (1, 2):
        members = (halves == half).nonzero()[:, 0]
        chosen = None if weights is None else weights.cpu()[members]
        used = len(members) if chosen is None else int((chosen > 0).sum())
        if used == 0:
            raise InputError(
                f"half-set {half} has none of the {len(rows)} particles to reconstruct: two half-maps need particles "
                "in both (rlnRandomSubset); take more particles or drop that column"
            )
        sums.append(
            backproject(images, rows[members], chosen, None, symmetry, device, monitor, f"Reconstructing half {half}")
        )
    return combine_halves(sums[0], sums[1], images.pixel_size_A, mask)

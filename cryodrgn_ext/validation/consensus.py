"""The consensus: one map of all particles in two independent halves, its mask, and how it agrees with another map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.fourier.fsc import fsc, resolution_A
from cryodrgn_ext.fourier.masks import spherical_mask, threshold_mask
from cryodrgn_ext.fourier.point_groups import C1, PointGroup
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.reconstruction.half_maps import HalfMaps, default_fsc_mask, reconstruct_half_maps

#: Below this mean FSC with the user's own map, up to twice the consensus' resolution, the metadata must be wrong.
SUSPICIOUS_FSC = 0.3
#: Share of the average structure outside of the images' mask that is more than its blurred edge.
MUCH_OUTSIDE = 0.1


def reconstruct_consensus(
    images: ParticleImages, mask: Tensor | None, device: torch.device, monitor: Monitor, symmetry: PointGroup = C1
) -> tuple[HalfMaps, Tensor]:
    """Reconstruct all particles in two halves, with the FSC in a mask.

    Parameters
    ----------
    images : ParticleImages
        With poses.
    mask : Tensor or None
        (D, D, D) soft solvent mask; made from the map when None.
    device : torch.device
    monitor : Monitor
    symmetry : PointGroup

    Returns
    -------
    HalfMaps
        Whose FSC and resolution are those in the mask.
    Tensor
        (D, D, D) the mask.

    Raises
    ------
    InputError
        When there is nothing to see in the map.
    """
    halves = reconstruct_half_maps(images, mask=mask, symmetry=symmetry, device=device, monitor=monitor)
    if mask is None:
        mask = solvent_mask(halves.map, images.pixel_size_A)
    curve = fsc(torch.from_numpy(halves.half1), torch.from_numpy(halves.half2), mask)
    curve[np.flatnonzero(halves.fsc == 0.0)] = 0.0  # beyond the images' band
    return replace(halves, fsc=curve, resolution_A=resolution_A(curve, images.pixel_size_A, images.box_size)), mask


def cut_by_mask(maps: HalfMaps, diameter_A: float) -> str | None:
    """One sentence where the disc that images were cut to is smaller than the particle; None where it is not.

    Of what two independent halves have in common, noise is no part. What of it lies outside of a sphere of the disc's
    diameter belongs to the particle, and images hold it in some views alone. Octants of the box tell how sure that is.

    Parameters
    ----------
    maps : HalfMaps
        Of images that were cut to the disc.
    diameter_A : float
        Of the disc.
    """
    box = len(maps.map)
    shared = (maps.half1.astype(np.float64) * maps.half2) * default_fsc_mask(box).numpy()
    axis = np.arange(box) - box // 2
    squares = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    outside = np.where(squares > (0.5 * diameter_A / maps.pixel_size_A) ** 2, shared, 0.0)
    total = shared.sum()
    if not total > 0:
        return None
    ends = (0, box // 2)
    octants = [float(outside[z:, y:, x:][: box // 2, : box // 2, : box // 2].sum())
               for z in ends for y in ends for x in ends]  # fmt: skip
    error = float(np.std(octants, ddof=1)) * len(octants) ** 0.5
    if sum(octants) - error <= MUCH_OUTSIDE * total:
        return None
    return (
        f"Warning: {100 * outside.sum() / total:.0f} % of the average structure lies outside of the mask of "
        f"{diameter_A:g} Å (--mask_diameter_A) that the images were cut to: the particle is larger than the mask, and "
        "what differs between particles there is lost or distorted; give a diameter that leaves room around the "
        "particle."
    )


def solvent_mask(volume: NDArray[np.float32], pixel_size_A: float) -> Tensor:
    """Soft mask (D, D, D) around the density of a map, within the sphere that the images support."""
    box = len(volume)
    sphere = spherical_mask(box, 0.85 * box / 2, 0.14 * box / 2)
    return threshold_mask(torch.from_numpy(volume) * sphere, pixel_size_A) * sphere


def compare_with_reference(
    volume: NDArray[np.float32], reference: Tensor, mask: NDArray[np.float32], pixel_size_A: float, radius: int
) -> str:
    """One sentence on how well the user's own map agrees with the consensus.

    Parameters
    ----------
    volume : ndarray
        (D, D, D) consensus.
    reference : Tensor
        (D, D, D) the user's map.
    mask : ndarray
        (D, D, D) in which both are compared.
    pixel_size_A : float
    radius : int
        Shell of the consensus' resolution, in cycles per box.
    """
    box = len(volume)
    curve = fsc(torch.from_numpy(volume), reference, torch.from_numpy(mask))
    shell = max(2, radius // 2)
    mean = float(np.mean(curve[1 : shell + 1]))
    if mean < SUSPICIOUS_FSC:
        return (
            f"Warning: the map of --in_3dref does not agree with our consensus (mean FSC {mean:.2f} to "
            f"{box * pixel_size_A / shell:.1f} Å): check poses, pixel size and hand."
        )
    found = resolution_A(curve, pixel_size_A, box, 0.5)
    return f"The map of --in_3dref agrees with our consensus to {found:.1f} Å (FSC 0.5)."

"""Where the particle is, and where in it volumes differ: the masks that components are held to."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from cryodrgn_ext.engines.subspace.grid import ComponentGrid
from cryodrgn_ext.engines.subspace.subspace import Subspace
from cryodrgn_ext.fourier.masks import cosine_edge

PARTICLE_LEVEL = 0.1  # of the 99.9th percentile of the smoothed consensus
LEAST_PIECE = 0.1  # of the largest piece's volume
MOVING_LEVEL = 0.07  # of the largest spread
NOISE_LEVELS = 8.0  # deviations above the spread of the surroundings
EDGE_PX = 3
OUTSTANDING_LEVEL = 0.3  # of the largest smoothed difference, in a rare state


def _soft(inside: NDArray[np.bool_], dilation: float, edge: float) -> Tensor:
    curve = cosine_edge(ndimage.distance_transform_edt(~inside), dilation, edge)
    return torch.from_numpy(curve.astype(np.float32))


def widened(mask: Float32[Tensor, "D D D"], width: float) -> Float32[Tensor, "D D D"]:
    """Soft mask (D, D, D) that reaches ``width`` voxels beyond where another one falls to a half."""
    return _soft(mask.numpy() > 0.5, width, EDGE_PX) if bool((mask > 0.5).any()) else mask


def _sphere(box: int) -> NDArray[np.bool_]:
    axis = np.arange(box) - box // 2
    inside: NDArray[np.bool_] = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < (0.48 * box) ** 2
    return inside


def spread_of(subspace: Subspace) -> NDArray[np.float32]:
    """Root mean square (D, D, D) of how volumes differ from their mean, by the components of a subspace."""
    grid: ComponentGrid = subspace.grid
    total = np.zeros((grid.box_size,) * 3, np.float32)
    for j in range(1, subspace.zdim + 1):
        total += np.square(grid.to_map(subspace.values[..., j].contiguous()).cpu().numpy())
    smooth: NDArray[np.float32] = ndimage.gaussian_filter(np.sqrt(total), 1.0)
    return smooth


def moving_region(subspace: Subspace, focus: Float[Tensor, "D D D"] | None) -> Float32[Tensor, "D D D"]:
    """Soft mask (D, D, D) of where volumes differ: above what the surroundings show, and not next to nothing.

    Nothing at all when nothing stands out. Within ``focus`` where that is given.
    """
    mask = region_of_spread(spread_of(subspace), subspace.grid.radius)
    return mask if focus is None else mask * focus


def region_of_spread(spread: NDArray[np.floating], radius: int) -> Float32[Tensor, "D D D"]:
    """Soft mask (D, D, D) of where a smoothed spread of volumes (D, D, D) stands out; zeros when it does nowhere.

    ``radius`` is the frequency in cycles per box up to which the volumes are known; it sets the edge.
    """
    box = len(spread)
    sphere = _sphere(box)
    middle = float(np.median(spread[sphere]))
    deviation = 1.4826 * float(np.median(np.abs(spread[sphere] - middle)))
    high = spread > max(MOVING_LEVEL * float(spread[sphere].max()), middle + NOISE_LEVELS * deviation)
    if not high.any():
        return torch.zeros(box, box, box)
    return _soft(high & sphere, 0.0, max(EDGE_PX, 0.75 * box / radius))


def standing_out(difference: NDArray[np.float32], radius: int) -> Float32[Tensor, "D D D"]:
    """Soft mask (D, D, D) of where a difference map, of either sign, is strong once smoothed.

    Parameters
    ----------
    difference : ndarray
        (D, D, D).
    radius : int
        Frequency in cycles per box up to which it is known.
    """
    box = len(difference)
    size = np.abs(ndimage.gaussian_filter(difference, 0.35 * box / radius)) * _sphere(box)
    high = size > OUTSTANDING_LEVEL * size.max()
    if not high.any():
        return torch.zeros(box, box, box)
    return _soft(high, 0.25 * box / radius, max(1.0, 0.5 * box / radius))


def particle_region(
    consensus: NDArray[np.float32], radius: int, moving: Float32[Tensor, "D D D"]
) -> Float32[Tensor, "D D D"]:
    """Soft mask (D, D, D) of the particle in all its states: the smoothed consensus, and all that moves.

    A refinement's mask leaves out what the average blurs away; this one is drawn at a low level and joined with the
    moving region.

    Parameters
    ----------
    consensus : ndarray
        (D, D, D).
    radius : int
        Frequency in cycles per box that sets the smoothing.
    moving : Tensor
        (D, D, D) soft mask.
    """
    box = len(consensus)
    sphere = _sphere(box)
    smooth = ndimage.gaussian_filter(consensus, 0.35 * box / radius) * sphere
    high = smooth > PARTICLE_LEVEL * np.percentile(smooth[sphere], 99.9)
    pieces, count = ndimage.label(high)
    if count == 0 or not smooth.max() > 0:
        return torch.maximum(torch.from_numpy(sphere.astype(np.float32)), moving)
    size = np.bincount(pieces.ravel())[1:]
    kept = np.isin(pieces, 1 + np.flatnonzero(size >= LEAST_PIECE * size.max()))
    return torch.maximum(_soft(kept, 1.0, EDGE_PX), moving)

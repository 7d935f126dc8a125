"""Soft masks in real space."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from cryodrgn_ext.errors import InputError

Distance = TypeVar("Distance", Tensor, NDArray[np.floating])


def cosine_edge(distance: Distance, start: float, width: float) -> Distance:
    """1 up to ``start``, half a cosine period down to 0 at ``start + width`` (a hard step when width is 0).

    Parameters
    ----------
    distance : Tensor or ndarray
        (...) distances from what is inside, of which the result has the shape and type.
    start, width : float
        In the unit of the distances.
    """
    if isinstance(distance, Tensor):
        if width <= 0:
            return (distance <= start).to(distance.dtype)
        return 0.5 * (1.0 + torch.cos(math.pi * ((distance - start) / width).clamp(0.0, 1.0)))
    if width <= 0:
        return (distance <= start).astype(distance.dtype)
    edge: NDArray[np.floating] = 0.5 * (1.0 + np.cos(math.pi * np.clip((distance - start) / width, 0.0, 1.0)))
    return edge


def _centred_radius(box_size: int, dimensions: int, device: torch.device | str | None) -> Tensor:
    axis = torch.arange(box_size, device=device, dtype=torch.float32) - box_size // 2
    squares = torch.zeros((), device=device)
    for d in range(dimensions):
        squares = squares + (axis**2).reshape([-1 if i == d else 1 for i in range(dimensions)])
    return squares.sqrt()


def soft_circle(
    box_size: int, radius_px: float, edge_px: float, device: torch.device | str | None = None
) -> Float32[Tensor, "D D"]:
    """(D, D) float32 window: 1 within ``radius_px`` of pixel D // 2, a cosine edge to 0 at radius + edge."""
    return cosine_edge(_centred_radius(box_size, 2, device), radius_px, edge_px)


def spherical_mask(
    box_size: int, radius_px: float, edge_px: float, device: torch.device | str | None = None
) -> Float32[Tensor, "D D D"]:
    """(D, D, D) float32 mask: 1 within ``radius_px`` of voxel D // 2, a cosine edge to 0 at radius + edge."""
    return cosine_edge(_centred_radius(box_size, 3, device), radius_px, edge_px)


def default_threshold(volume: Float[Tensor, "D D D"]) -> float:
    """Half of the 99.99th percentile of the density (Zhong 2022, 4.4.4)."""
    return 0.5 * float(np.percentile(volume.detach().cpu().numpy(), 99.99))


def threshold_mask(
    volume: Float[Tensor, "D D D"],
    pixel_size_A: float,
    threshold: float | None = None,
    dilation_A: float = 25.0,
    edge_A: float = 15.0,
) -> Float32[Tensor, "D D D"]:
    """Soft mask around the density of a map (Zhong 2022, 4.4.4): threshold, dilate, cosine edge.

    Parameters
    ----------
    volume : Tensor
        (D, D, D) real, positive density.
    pixel_size_A : float
    threshold : float, optional
        Voxels above it are inside; half of the 99.99th percentile when omitted.
    dilation_A : float
        How far the mask extends beyond the thresholded voxels (Euclidean).
    edge_A : float
        Width of the cosine edge, which reaches 0 at ``dilation_A + edge_A``.

    Returns
    -------
    Tensor
        (D, D, D) float32 in [0, 1], on the device of ``volume``.

    Raises
    ------
    InputError
        When no voxel lies above the threshold, or the map has no positive density to derive one from.
    """
    level = default_threshold(volume) if threshold is None else threshold
    if threshold is None and not level > 0:
        raise InputError(
            f"a mask needs positive density, but the 99.99th percentile of the map is {2 * level:.4g}; "
            "give a threshold, or check the contrast of the map"
        )
    inside = volume.detach().cpu().numpy() > level
    if not inside.any():
        raise InputError(
            f"no voxel of the map lies above the mask threshold {level:.4g} (maximum {float(volume.max()):.4g}); "
            "give a lower threshold"
        )
    distance = ndimage.distance_transform_edt(~inside).astype(np.float32)
    mask = cosine_edge(torch.from_numpy(distance) * pixel_size_A, dilation_A, edge_A)
    return mask.to(volume.device)

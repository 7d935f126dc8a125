"""Trilinear interpolation in a centred half-volume (x >= 0): where a point lies, its cell, and the value there.

The parts with scalar arguments go into compiled kernels (:mod:`.compilation`); :func:`corner_weights` is their form for
tensors.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cryodrgn_ext.fourier.compilation import Complex64Array, Float32Array, inlined

Cell: TypeAlias = tuple[np.float32, np.float32, np.float32, np.int64, np.int64, np.int64]


@inlined
def plane_point(
    kxy: Float32Array, planes: Float32Array, i: int | np.int32, t: int | np.int32
) -> tuple[np.float32, np.float32, np.float32]:
    """Where frequency t of (M, 2) lies on central plane i of (B, 2, 3): kx planes[i, 0] + ky planes[i, 1]."""
    kx, ky = kxy[t, 0], kxy[t, 1]
    x = kx * planes[i, 0, 0] + ky * planes[i, 1, 0]
    y = kx * planes[i, 0, 1] + ky * planes[i, 1, 1]
    z = kx * planes[i, 0, 2] + ky * planes[i, 1, 2]
    return x, y, z


@inlined
def cell(x: np.float32, y: np.float32, z: np.float32, half: int) -> Cell:
    """Cell of a point with x >= 0: fractions along x, y, z, and indices x0, y0, z0 of its lowest corner.

    The origin has index ``half`` along y and z, and 0 along x.
    """
    xf, yf, zf = np.floor(x), np.floor(y), np.floor(z)
    fx, fy, fz = np.float32(x - xf), np.float32(y - yf), np.float32(z - zf)
    return fx, fy, fz, np.int64(xf), np.int64(yf) + half, np.int64(zf) + half


@inlined
def interpolate_half_volume(data: Complex64Array, x: np.float32, y: np.float32, z: np.float32) -> np.complex64:
    """Value of a half-volume (Z, Y, X) at a point with x >= 0, in grid points from the origin."""
    one = np.float32(1.0)
    fx, fy, fz, x0, y0, z0 = cell(x, y, z, data.shape[2] - 1)
    gx, gy, gz = one - fx, one - fy, one - fz
    c00 = data[z0, y0, x0] * gx + data[z0, y0, x0 + 1] * fx
    c01 = data[z0, y0 + 1, x0] * gx + data[z0, y0 + 1, x0 + 1] * fx
    c10 = data[z0 + 1, y0, x0] * gx + data[z0 + 1, y0, x0 + 1] * fx
    c11 = data[z0 + 1, y0 + 1, x0] * gx + data[z0 + 1, y0 + 1, x0 + 1] * fx
    value: np.complex64 = (c00 * gy + c01 * fy) * gz + (c10 * gy + c11 * fy) * fz
    return value


def corner_weights(points: Float[Tensor, "*batch 3"]) -> tuple[Int64[Tensor, "*batch 3"], Float[Tensor, "8 ..."]]:
    """Cells and weights of points (..., 3), in grid points.

    Returns
    -------
    Tensor, Tensor
        (..., 3) int64, x, y, z of the lowest corner; (8, ...) weights of the corners: z outermost, x innermost.
    """
    low = points.floor()
    fx, fy, fz = (points - low).unbind(-1)
    weights = [wz * wy * wx for wz in (1 - fz, fz) for wy in (1 - fy, fy) for wx in (1 - fx, fx)]
    return low.long(), torch.stack(weights)

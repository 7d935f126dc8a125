"""Trilinear interpolation: exact for what is linear along each axis, at grid points and on the rim."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numba import prange

from cryodrgn_ext.fourier.compilation import EXACT, Complex64Array, Float32Array, compiled
from cryodrgn_ext.fourier.trilinear import corner_weights, interpolate_half_volume, plane_point

HALF = 5


@compiled(EXACT)
def _values(data: Complex64Array, points: Float32Array, out: Complex64Array) -> None:
    for i in prange(points.shape[0]):
        out[i] = interpolate_half_volume(data, points[i, 0], points[i, 1], points[i, 2])


@compiled(EXACT)
def _points(kxy: Float32Array, planes: Float32Array, out: Float32Array) -> None:
    for i in prange(planes.shape[0]):
        for t in range(kxy.shape[0]):
            out[i, t, 0], out[i, t, 1], out[i, t, 2] = plane_point(kxy, planes, i, t)


def points(seed: int) -> np.ndarray:
    """Points with x >= 0 in a half-volume, some of them grid points."""
    rng = np.random.default_rng(seed)
    found = rng.uniform([0, -HALF, -HALF], [HALF - 1, HALF - 1, HALF - 1], (200, 3)).astype(np.float32)
    found[:40] = np.round(found[:40])
    return found


def trilinear(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """A function that is linear along each axis."""
    return (1 + 0.5 * x) * (2 - 0.3 * y + 0.1j) * (0.7 + 0.2j * z)


def test_what_is_linear_along_each_axis_is_interpolated_exactly() -> None:
    axis, at = np.arange(-HALF, HALF + 1.0), points(0)
    z, y, x = np.meshgrid(axis, axis, axis[HALF:], indexing="ij")
    out = np.empty(len(at), np.complex64)
    _values(trilinear(x, y, z).astype(np.complex64), at, out)
    np.testing.assert_allclose(out, trilinear(*at.astype(np.float64).T), rtol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_of_corners_add_up_to_the_point(dtype: torch.dtype) -> None:
    at = torch.from_numpy(points(1)).to(dtype)
    low, weights = corner_weights(at)
    corners = torch.tensor([[dx, dy, dz] for dz in (0, 1) for dy in (0, 1) for dx in (0, 1)])
    assert weights.dtype == dtype
    torch.testing.assert_close(weights.sum(0), torch.ones(len(at), dtype=dtype))
    mean = (weights[..., None] * (low + corners[:, None]).to(dtype)).sum(0)
    torch.testing.assert_close(mean, at, atol=1e-5, rtol=0)


def test_points_of_a_plane_are_its_linear_combinations() -> None:
    rng = np.random.default_rng(2)
    kxy, planes = rng.normal(size=(7, 2)).astype(np.float32), rng.normal(size=(3, 2, 3)).astype(np.float32)
    out = np.empty((3, 7, 3), np.float32)
    _points(kxy, planes, out)
    np.testing.assert_allclose(out, np.einsum("tc,icx->itx", kxy, planes), atol=1e-6)

"""Compiled CPU kernels of the two hot loops: trilinear slicing and its transpose.

They compute what ``slice_torch`` and ``insert_torch`` in :mod:`cryodrgn_ext.fourier.slices` compute, which are
their oracles in the tests. The transpose is deterministic: every thread owns a slab of z planes and walks through
all points in order, so each voxel receives its additions in the order of the points whatever the thread count.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Complex, Complex64, Float
from numba import prange
from torch import Tensor

from cryodrgn_ext.fourier.compilation import EXACT, Complex64Array, Float32Array, Int64Array, compiled, threads_of_torch
from cryodrgn_ext.fourier.trilinear import cell, interpolate_half_volume


@compiled(EXACT)
def _slice(
    data: Complex64Array, points: Float32Array, scale: np.float32, limit2: np.float32, out: Complex64Array,
) -> None:  # fmt: skip
    block = 2048
    blocks = (points.shape[0] + block - 1) // block
    for b in prange(blocks):
        for i in range(b * block, min((b + 1) * block, points.shape[0])):
            x = points[i, 0] * scale
            y = points[i, 1] * scale
            z = points[i, 2] * scale
            if not x * x + y * y + z * z <= limit2:
                out[i] = 0.0
                continue
            flip = x < 0
            if flip:
                x, y, z = -x, -y, -z
            value = interpolate_half_volume(data, x, y, z)
            out[i] = value.conjugate() if flip else value


@compiled(EXACT)
def _insert(
    numerator: Float32Array, weight: Float32Array, points: Float32Array, values: Complex64Array, weights: Float32Array,
    scale: np.float32, limit2: np.float32, bounds: Int64Array,
) -> None:  # fmt: skip
    half = weight.shape[2] - 1
    one = np.float32(1.0)
    for slab in prange(bounds.shape[0] - 1):
        z_low, z_high = bounds[slab], bounds[slab + 1]
        for i in range(points.shape[0]):
            x = points[i, 0] * scale
            z = points[i, 2] * scale
            flip = x < 0
            if flip:
                z = -z
            if not (-half <= z < half + 1):  # also catches NaN, which must not become an index
                continue
            z0 = np.int64(np.floor(z)) + half
            if z0 + 1 < z_low or z0 >= z_high:
                continue
            y = points[i, 1] * scale
            if not x * x + y * y + z * z <= limit2:
                continue
            re, im = values[i].real, values[i].imag
            if flip:
                x, y, im = -x, -y, -im
            w = weights[i]
            fx, fy, fz, x0, y0, z0 = cell(x, y, z, half)
            gx, gy = one - fx, one - fy
            for dz in range(2):
                zi = z0 + dz
                if zi < z_low or zi >= z_high:
                    continue
                wz = fz if dz else one - fz
                for dy in range(2):
                    wy = wz * (fy if dy else gy)
                    a, b = wy * gx, wy * fx
                    yi = y0 + dy
                    numerator[zi, yi, x0, 0] += a * re
                    numerator[zi, yi, x0, 1] += a * im
                    numerator[zi, yi, x0 + 1, 0] += b * re
                    numerator[zi, yi, x0 + 1, 1] += b * im
                    weight[zi, yi, x0] += a * w
                    weight[zi, yi, x0 + 1] += b * w


def slice_cpu(
    half_volume: Complex[Tensor, "Z Z X"], points: Float[Tensor, "*batch 3"], oversampling: int, limit: float
) -> Complex64[Tensor, "*batch"]:
    """Trilinear values (...) of a half-volume (Z, Y, X) complex64 at points (..., 3) in cycles per box.

    Points farther than ``limit`` cycles per box from the origin give 0.
    """
    flat = points.detach().reshape(-1, 3).to(torch.float32).contiguous()
    out = torch.empty(len(flat), dtype=torch.complex64)
    data = half_volume.detach().to(torch.complex64).contiguous()
    scale, limit2 = np.float32(oversampling), np.float32((limit * oversampling) ** 2)
    with threads_of_torch():
        _slice(data.resolve_conj().numpy(), flat.numpy(), scale, limit2, out.numpy())
    return out.reshape(points.shape[:-1])


def _slabs(points: Tensor, oversampling: int, planes: int, count: int) -> Int64Array:
    """Boundaries (count + 1,) of z slabs that hold about equally many of the points, judged by a sample of them."""
    sample = points[:: max(1, len(points) // 65536)]
    z = torch.where(sample[:, 0] < 0, -sample[:, 2], sample[:, 2]).nan_to_num(0.0) * oversampling
    plane = (z.floor() + planes // 2).clamp(0, planes - 1).long()
    total = torch.bincount(plane, minlength=planes).double().cumsum(0).numpy()
    inner = np.searchsorted(total, total[-1] * np.arange(1, count) / count) + 1
    return np.concatenate([[0], np.clip(inner, 0, planes), [planes]]).astype(np.int64)


def insert_cpu(
    numerator: Complex[Tensor, "Z Z X"],
    weight: Float[Tensor, "Z Z X"],
    points: Float[Tensor, "*batch 3"],
    values: Complex[Tensor, "*batch"],
    weights: Float[Tensor, "*batch"],
    oversampling: int,
    limit: float,
) -> None:
    """Add ``values`` and ``weights`` (...) at ``points`` (..., 3) to the sums, in place, deterministically."""
    flat = points.detach().reshape(-1, 3).to(torch.float32).contiguous()
    value = values.detach().reshape(-1).to(torch.complex64).resolve_conj().contiguous()
    mass = weights.detach().reshape(-1).to(torch.float32).contiguous()
    scale, limit2 = np.float32(oversampling), np.float32((limit * oversampling) ** 2)
    with threads_of_torch() as threads:
        bounds = _slabs(flat, oversampling, weight.shape[0], threads)
        sums = torch.view_as_real(numerator).numpy()
        _insert(sums, weight.numpy(), flat.numpy(), value.numpy(), mass.numpy(), scale, limit2, bounds)

"""Compiled CPU kernels of the two hot loops: trilinear slicing and its transpose.

They compute what ``slice_torch`` and ``insert_torch`` in :mod:`cryodrgn_ext.fourier.slices` compute, which are
their oracles in the tests. The transpose is deterministic: every thread owns a slab of z planes and walks through
all points in order, so each voxel receives its additions in the order of the points whatever the thread count.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

_ONE_AT_A_TIME = threading.Lock()  # numba's fallback thread pool aborts the process when two threads enter it


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compile on first use, keeping the machine code on disk where some directory is writable."""
    try:
        compiled = njit(parallel=True, cache=True, nogil=True)(function)
    except RuntimeError:  # no place for the cache, as in a read-only container: compile in every process
        compiled = njit(parallel=True, nogil=True)(function)
    typed: Callable[..., None] = compiled
    return typed


@contextmanager
def threads_of_torch() -> Iterator[int]:
    """Run numba on as many threads as torch uses, one caller at a time, and leave torch its number of threads.

    Starting numba's OpenMP pool sets the number of threads of the whole process; with another number torch would add
    in another order, and the same seed no longer give the same result.
    """
    wanted = torch.get_num_threads()
    threads = max(1, min(wanted, int(numba.config.NUMBA_NUM_THREADS)))  # type: ignore[attr-defined]
    with _ONE_AT_A_TIME:
        numba.set_num_threads(threads)
        try:
            yield threads
        finally:
            if torch.get_num_threads() != wanted:
                torch.set_num_threads(wanted)


@_compiled
def _slice(data: Any, points: Any, scale: float, limit2: float, out: Any) -> None:
    half = data.shape[2] - 1
    one = np.float32(1.0)
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
            xf, yf, zf = np.floor(x), np.floor(y), np.floor(z)
            fx, fy, fz = np.float32(x - xf), np.float32(y - yf), np.float32(z - zf)
            x0, y0, z0 = int(xf), int(yf) + half, int(zf) + half
            gx, gy, gz = one - fx, one - fy, one - fz
            c00 = data[z0, y0, x0] * gx + data[z0, y0, x0 + 1] * fx
            c01 = data[z0, y0 + 1, x0] * gx + data[z0, y0 + 1, x0 + 1] * fx
            c10 = data[z0 + 1, y0, x0] * gx + data[z0 + 1, y0, x0 + 1] * fx
            c11 = data[z0 + 1, y0 + 1, x0] * gx + data[z0 + 1, y0 + 1, x0 + 1] * fx
            value = (c00 * gy + c01 * fy) * gz + (c10 * gy + c11 * fy) * fz
            out[i] = value.conjugate() if flip else value


@_compiled
def _insert(
    numerator: Any, weight: Any, points: Any, values: Any, weights: Any, scale: float, limit2: float, bounds: Any
) -> None:
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
            zf = np.floor(z)
            if not (-half <= zf <= half):  # also catches NaN, which must not become an index
                continue
            z0 = int(zf) + half
            if z0 + 1 < z_low or z0 >= z_high:
                continue
            y = points[i, 1] * scale
            if not x * x + y * y + z * z <= limit2:
                continue
            re, im = values[i].real, values[i].imag
            if flip:
                x, y, im = -x, -y, -im
            w = weights[i]
            xf, yf = np.floor(x), np.floor(y)
            fx, fy, fz = np.float32(x - xf), np.float32(y - yf), np.float32(z - zf)
            gx, gy = one - fx, one - fy
            x0, y0 = int(xf), int(yf) + half
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


def slice_cpu(half_volume: Tensor, points: Tensor, oversampling: int, limit: float) -> Tensor:
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


def _slabs(points: Tensor, oversampling: int, planes: int, count: int) -> Any:
    """Boundaries (count + 1,) of z slabs that hold about equally many of the points, judged by a sample of them."""
    sample = points[:: max(1, len(points) // 65536)]
    z = torch.where(sample[:, 0] < 0, -sample[:, 2], sample[:, 2]).nan_to_num(0.0) * oversampling
    plane = (z.floor() + planes // 2).clamp(0, planes - 1).long()
    total = torch.bincount(plane, minlength=planes).double().cumsum(0).numpy()
    inner = np.searchsorted(total, total[-1] * np.arange(1, count) / count) + 1
    return np.concatenate([[0], np.clip(inner, 0, planes), [planes]]).astype(np.int64)


def insert_cpu(
    numerator: Tensor, weight: Tensor, points: Tensor, values: Tensor, weights: Tensor, oversampling: int, limit: float
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

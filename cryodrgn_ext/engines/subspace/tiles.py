"""Coefficients of many images sorted into small cubes of the volume, so that what belongs together is in the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from cryodrgn_ext.engines.subspace.simd import compiled, inlined
from cryodrgn_ext.fourier.kernels import threads_of_torch

EDGE = 8


@inlined
def _tile(kxy: Any, planes: Any, transfer: Any, i: Any, t: Any, radius2: Any, half: Any) -> Any:
    """Cube of coefficient t of image i; -1 when it does not count."""
    kx, ky = kxy[t, 0], kxy[t, 1]
    x = kx * planes[i, 0, 0] + ky * planes[i, 1, 0]
    y = kx * planes[i, 0, 1] + ky * planes[i, 1, 1]
    z = kx * planes[i, 0, 2] + ky * planes[i, 1, 2]
    result = -1
    if transfer[i, t] != 0 and x * x + y * y + z * z <= radius2:
        if x < 0:
            x, y, z = -x, -y, -z
        x0, y0, z0 = np.int64(np.floor(x)), np.int64(np.floor(y)) + half, np.int64(np.floor(z)) + half
        result = (z0 // EDGE * (2 * half // EDGE + 1) + y0 // EDGE) * (half // EDGE + 1) + x0 // EDGE
    return result


@compiled
def _count(kxy: Any, planes: Any, transfer: Any, radius2: Any, half: Any, count: Any) -> None:
    n, m = transfer.shape
    n_blocks = count.shape[0]
    for block in prange(n_blocks):
        for i in range(block * n // n_blocks, (block + 1) * n // n_blocks):
            for t in range(m):
                tile = _tile(kxy, planes, transfer, i, t, radius2, half)
                if tile >= 0:
                    count[block, tile] += 1


@compiled
def _fill(
    kxy: Any, planes: Any, transfer: Any, radius2: Any, half: Any, bits: Any, place: Any, order: Any
) -> None:  # fmt: skip
    n, m = transfer.shape
    n_blocks = place.shape[0]
    for block in prange(n_blocks):
        for i in range(block * n // n_blocks, (block + 1) * n // n_blocks):
            for t in range(m):
                tile = _tile(kxy, planes, transfer, i, t, radius2, half)
                if tile >= 0:
                    order[place[block, tile]] = i << bits | t
                    place[block, tile] += 1


@dataclass(frozen=True)
class Tiles:
    """Coefficients of some images, cube by cube.

    Attributes
    ----------
    order : Tensor
        (R,) int32: coefficient t of image i is ``i << bits | t``. Those that do not count (outside the sphere, or of
        no transfer) are left out. In each cube they follow in ascending order.
    bits : int
    start : Tensor
        (T, K + 1) int64: where in ``order`` the part of each of K blocks of images begins in each cube; the last
        column is where the cube ends. As many blocks as threads: the order does not depend on them.
    lowest : Tensor
        (T,) int64: lowest plane z of each cube's cells.
    """

    order: Tensor
    bits: int
    start: Tensor
    lowest: Tensor

    @classmethod
    def sort(cls, kxy: Tensor, planes: Tensor, transfer: Tensor, radius2: float, half: int) -> Tiles:
        """Sort the coefficients kxy (M, 2) of images with central sections (B, 2, 3) and transfer (B, M)."""
        n, m = transfer.shape
        bits = m.bit_length()
        along, along_x = 2 * half // EDGE + 1, half // EDGE + 1
        n_tiles, n_blocks = along * along * along_x, max(1, min(torch.get_num_threads(), n))
        arrays = (kxy.numpy(), planes.numpy(), transfer.numpy(), np.float32(radius2), half)
        count = np.zeros((n_blocks, n_tiles), np.int64)
        with threads_of_torch():
            _count(*arrays, count)
        ends = np.cumsum(count.T.reshape(-1)).reshape(n_tiles, n_blocks)
        begins = ends - count.T
        order = np.empty(int(ends[-1, -1]), np.int32)
        with threads_of_torch():
            _fill(*arrays, bits, begins.T.copy(), order)
        start = torch.from_numpy(np.concatenate([begins, ends[:, -1:]], axis=1))
        lowest = torch.arange(n_tiles) // (along * along_x) * EDGE
        return cls(torch.from_numpy(order), bits, start, lowest)

"""Coefficients of many images sorted into small cubes of the volume, so that what belongs together is in the cache."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numba import prange
from torch import Tensor

from cryodrgn_ext.fourier.compilation import (
    FAST,
    Float32Array,
    Int32Array,
    Int64Array,
    compiled,
    inlined,
    threads_of_torch,
)
from cryodrgn_ext.fourier.trilinear import cell, plane_point

EDGE = 8


@inlined
def _tile(
    kxy: Float32Array, planes: Float32Array, whitened_ctf: Float32Array, i: int, t: int, radius2: np.float32, half: int
) -> np.int64:
    """Cube of coefficient t of image i; -1 when it does not count."""
    x, y, z = plane_point(kxy, planes, i, t)
    result = np.int64(-1)
    if whitened_ctf[i, t] != 0 and x * x + y * y + z * z <= radius2:
        if x < 0:
            x, y, z = -x, -y, -z
        _, _, _, x0, y0, z0 = cell(x, y, z, half)
        result = (z0 // EDGE * (2 * half // EDGE + 1) + y0 // EDGE) * (half // EDGE + 1) + x0 // EDGE
    return result


@compiled(FAST)
def _count(
    kxy: Float32Array, planes: Float32Array, whitened_ctf: Float32Array, radius2: np.float32, half: int, count:
    Int64Array,
) -> None:  # fmt: skip
    n, m = whitened_ctf.shape
    n_blocks = count.shape[0]
    for block in prange(n_blocks):
        for i in range(block * n // n_blocks, (block + 1) * n // n_blocks):
            for t in range(m):
                tile = _tile(kxy, planes, whitened_ctf, i, t, radius2, half)
                if tile >= 0:
                    count[block, tile] += 1


@compiled(FAST)
def _fill(
    kxy: Float32Array, planes: Float32Array, whitened_ctf: Float32Array, radius2: np.float32, half: int, bits: int,
    place: Int64Array, order: Int32Array,
) -> None:  # fmt: skip
    n, m = whitened_ctf.shape
    n_blocks = place.shape[0]
    for block in prange(n_blocks):
        for i in range(block * n // n_blocks, (block + 1) * n // n_blocks):
            for t in range(m):
                tile = _tile(kxy, planes, whitened_ctf, i, t, radius2, half)
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
        no CTF) are left out. In each cube they follow in ascending order.
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
    def sort(cls, kxy: Tensor, planes: Tensor, whitened_ctf: Tensor, radius2: float, half: int) -> Tiles:
        """Sort the coefficients kxy (M, 2) of images with central sections (B, 2, 3) and whitened CTF (B, M)."""
        n, m = whitened_ctf.shape
        bits = m.bit_length()
        along, along_x = 2 * half // EDGE + 1, half // EDGE + 1
        n_tiles, n_blocks = along * along * along_x, max(1, min(torch.get_num_threads(), n))
        arrays = (kxy.numpy(), planes.numpy(), whitened_ctf.numpy(), np.float32(radius2), half)
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

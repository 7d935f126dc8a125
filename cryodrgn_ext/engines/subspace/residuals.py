"""Residuals of images after their model, and scores of them at any place of the volume; plain forms are oracles."""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from cryodrgn_ext.engines.subspace.kernels import consensus_at, point_of
from cryodrgn_ext.engines.subspace.torch_form import Chunk, Operators
from cryodrgn_ext.fourier.block_sizes import in_blocks
from cryodrgn_ext.fourier.compilation import (
    FAST,
    Complex64Array,
    Float32Array,
    Int32Array,
    Int64Array,
    compiled,
    threads_of_torch,
)
from cryodrgn_ext.fourier.simd import WIDTH
from cryodrgn_ext.fourier.trilinear import cell


@compiled(FAST)
def _subtract(
    components: Float32Array, table: Int64Array, base: Complex64Array, oversampling: int, kxy: Float32Array, planes:
    Float32Array, values: Complex64Array, whitened_ctf: Float32Array, weights: Float32Array, limit2: np.float32, out:
    Complex64Array,
) -> None:  # fmt: skip
    n, m = values.shape
    width = weights.shape[1]
    half = (table.shape[0] - 1) // 2
    one = np.float32(1.0)
    scale = np.float32(oversampling)
    for i in prange(n):
        re, im = np.zeros(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
        for t in range(m):
            x, y, z, flip = point_of(kxy, planes, i, t)
            c = whitened_ctf[i, t]
            if c == 0 or x * x + y * y + z * z > limit2:
                out[i, t] = 0
                continue
            fx, fy, fz, x0, y0, z0 = cell(x, y, z, half)
            re[:] = 0
            im[:] = 0
            for corner in range(8):
                dz, dy, dx = corner >> 2, (corner >> 1) & 1, corner & 1
                w = (fz if dz else one - fz) * (fy if dy else one - fy) * (fx if dx else one - fx)
                v = table[z0 + dz, y0 + dy] + x0 + dx
                for k in range(0, width, WIDTH):
                    for j in range(WIDTH):
                        re[j] += w * weights[i, k + j] * components[v, 0, k + j]
                        im[j] += w * weights[i, k + j] * components[v, 1, k + j]
            model = consensus_at(base, x, y, z, scale) * weights[i, 0] + np.complex64(complex(re.sum(), im.sum()))
            if flip:
                model = np.conj(model)
            out[i, t] = values[i, t] - c * model


def residuals(operators: Operators, components: Tensor, weights: Tensor, chunk: Chunk) -> Tensor:
    """Images less their model terms.

    Parameters
    ----------
    operators : Operators
    components : Tensor
        (V, 2, Qp) float32.
    weights : Tensor
        (B, Q) of the components in each image; the first is that of the consensus and its correction.
    chunk : Chunk

    Returns
    -------
    Tensor
        (B, M) complex64; 0 where a coefficient does not count.
    """
    if components.device.type != "cpu":
        return residuals_torch(operators, components, weights, chunk)
    wide = torch.zeros(len(weights), components.shape[2])
    wide[:, : weights.shape[1]] = weights
    out = torch.empty_like(chunk.values)
    with threads_of_torch():
        _subtract(
            components.numpy(), operators.grid.table.numpy(), operators.base.data.numpy(),
            operators.base.grid.oversampling, operators.kxy.numpy(), chunk.planes.numpy(), chunk.values.numpy(),
            chunk.whitened_ctf.numpy(), wide.numpy(), operators.limit2, out.numpy(),
        )  # fmt: skip
    return out


def residuals_torch(operators: Operators, components: Tensor, weights: Tensor, chunk: Chunk) -> Tensor:
    """Plain form of :func:`residuals`."""

    def rests(here: slice) -> Tensor:
        part, own = chunk.images(here), weights[here].to(components)
        terms, base, data, _, weight = operators._terms(components, part)
        model = (terms[..., : own.shape[1]] @ own[:, None, :, None])[..., 0] + base * own[:, :1, None]
        inside = (weight.sum(0) > 0)[..., None]
        rest = (data - part.whitened_ctf[..., None] * model) * inside
        flip = (operators.kxy.to(rest.device)[:, :, None] * part.planes[:, None]).sum(2)[..., 0] < 0
        rest = torch.stack([rest[..., 0], torch.where(flip, -rest[..., 1], rest[..., 1])], dim=-1)
        return torch.view_as_complex(rest.contiguous())

    most = operators.images_at_once(components, chunk)
    return torch.cat(in_blocks(rests, len(chunk.rows), "residuals of components", most))


@compiled(FAST)
def _look(
    scores: Float32Array, planes: Float32Array, places: Float32Array, low: np.float32, width: np.float32, histogram:
    Int32Array,
) -> None:  # fmt: skip
    n, edge = scores.shape[0], scores.shape[1]
    n_blocks, n_places, n_bins = histogram.shape
    for block in prange(n_blocks):
        for i in range(block * n // n_blocks, (block + 1) * n // n_blocks):
            for g in range(n_places):
                x = y = np.float32(0.0)
                for axis in range(3):
                    x += planes[i, 0, axis] * places[g, axis]
                    y += planes[i, 1, axis] * places[g, axis]
                xf, yf = np.floor(x), np.floor(y)
                fx, fy = x - xf, y - yf
                x0, y0 = np.int64(xf) % edge, np.int64(yf) % edge
                x1, y1 = (x0 + 1) % edge, (y0 + 1) % edge
                upper = scores[i, y0, x0] * (1 - fx) + scores[i, y0, x1] * fx
                lower = scores[i, y1, x0] * (1 - fx) + scores[i, y1, x1] * fx
                bin_ = np.int64(np.floor((upper * (1 - fy) + lower * fy - low) / width))
                histogram[block, g, min(max(bin_, 0), n_bins - 1)] += 1


def score_histograms(scores: Tensor, planes: Tensor, places: Tensor, edges: Tensor) -> Tensor:
    """How often each score occurs at every place of the volume.

    Parameters
    ----------
    scores : Tensor
        (B, E, E) float32, axes y, x, periodic; pixel (0, 0) is the centre of the box.
    planes : Tensor
        (B, 2, 3): a place p appears at x, y = planes @ p.
    places : Tensor
        (G, 3) float32 x, y, z from the centre of the box, in pixels of the scores.
    edges : Tensor
        (H + 1,) of equal bins; scores beyond them count in the outermost.

    Returns
    -------
    Tensor
        (G, H) int64.
    """
    n_bins, low, width = len(edges) - 1, np.float32(edges[0]), np.float32(edges[1] - edges[0])
    if scores.device.type != "cpu":
        return score_histograms_torch(scores, planes, places, edges)
    histogram = np.zeros((max(1, min(torch.get_num_threads(), len(scores))), len(places), n_bins), np.int32)
    with threads_of_torch():
        _look(scores.numpy(), planes.numpy(), places.numpy(), low, width, histogram)
    return torch.from_numpy(histogram.sum(axis=0, dtype=np.int64))


def score_histograms_torch(scores: Tensor, planes: Tensor, places: Tensor, edges: Tensor) -> Tensor:
    """Plain form of :func:`score_histograms`."""
    n_bins, edge = len(edges) - 1, scores.shape[-1]
    total = torch.zeros(len(places), n_bins, dtype=torch.int64, device=scores.device)
    number = torch.arange(len(places), device=scores.device)
    for image, plane in zip(scores, planes, strict=True):
        at = places.to(plane) @ plane.T
        low = at.floor()
        fx, fy = (at - low).unbind(1)
        x, y = (low.long() % edge).unbind(1)
        x1, y1 = (x + 1) % edge, (y + 1) % edge
        value = (image[y, x] * (1 - fx) + image[y, x1] * fx) * (1 - fy)
        value = value + (image[y1, x] * (1 - fx) + image[y1, x1] * fx) * fy
        bin_ = ((value - edges[0]) / (edges[1] - edges[0])).floor().long().clamp(0, n_bins - 1)
        total[number, bin_] += 1
    return total

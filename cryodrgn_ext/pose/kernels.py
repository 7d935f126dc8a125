"""Compiled CPU kernel of the candidates that each image has for itself; its plain form is in :mod:`.scoring`.

What limits it is looking up the volume. So the volume is packed such that the four values of neighbouring rows and
columns lie side by side, one vector load each for the planes z and z + 1, and is cut to the band, so that it stays in
the cache. Arithmetic before and after the look-ups runs over coefficients in arrays of their own, where compilers find
the vectors by themselves. Candidates with one and the same shift, as the children of a pose are, share the shifted
image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import prange
from numba import types as untyped_types
from torch import Tensor

from cryodrgn_ext.fourier.compilation import FAST, Float32Array, Int32Array, compiled, threads_of_torch
from cryodrgn_ext.fourier.simd import operation, spread
from cryodrgn_ext.fourier.slices import RIM, FourierVolume

types: Any = untyped_types
_FLOAT = ir.FloatType()


@operation
def _interpolate(typingctx: Any, packed: Any, near: Any, step: Any, fx: Any, fy: Any, fz: Any) -> Any:
    """Trilinear value (real, imaginary) from the eight floats at ``near`` and the eight ``step`` floats further on.

    The eight are [x0: (y0: re, im), (y1: re, im)], [x1: ...].
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, near, step, fx, fy, fz = arguments
        pointer = context.make_array(signature.args[0])(context, builder, array).data
        eight = ir.VectorType(_FLOAT, 8)

        def load(index: Any) -> Any:
            value = builder.load(builder.bitcast(builder.gep(pointer, [index]), eight.as_pointer()))
            value.align = 4
            return value

        def half(vector: Any, width: int, first: int) -> Any:
            mask = ir.Constant(ir.VectorType(ir.IntType(32), width), [first + i for i in range(width)])
            return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)

        def mix(low: Any, high: Any, share: Any, width: int) -> Any:
            fuse = ("contract",)
            rise = builder.fmul(builder.fsub(high, low), spread(builder, share, width), flags=fuse)
            return builder.fadd(rise, low, flags=fuse)

        plane = mix(load(near), load(builder.add(near, step)), fz, 8)
        column = mix(half(plane, 4, 0), half(plane, 4, 4), fx, 4)
        value = mix(half(column, 2, 0), half(column, 2, 2), fy, 2)
        parts = [builder.extract_element(value, ir.Constant(ir.IntType(32), i)) for i in (0, 1)]
        return context.make_tuple(builder, signature.return_type, parts)

    real = types.float32
    return types.UniTuple(real, 2)(packed, types.intp, types.intp, real, real, real), generate


@compiled(FAST)
def _products(
    packed: Float32Array, edge: int, scale: np.float32, limit2: np.float32, share: Float32Array, kx: Int32Array, ky:
    Int32Array, planes: Float32Array, shift: Float32Array, data_re: Float32Array, data_im: Float32Array, power:
    Float32Array, box_size: int, radius: int, out: Float32Array, norm: Float32Array,
) -> None:  # fmt: skip
    """Products of shifted images with slices, and the slices' norms.

    ``out[b, k, 0, m] + i out[b, k, 1, m] = conj(exp(-2 pi i k.t / D) P) d`` and ``norm[b, k] = sum_m power |P|²``,
    with the slice ``P = sum_q share[b, q] V_q`` on plane ``planes[b, k]``.

    Parameters
    ----------
    packed : (Q, V) float32
        See :class:`Packed`.
    edge : int
        Index of the origin along z and y in the packed grid.
    scale : float32
        Grid points per cycle per box.
    limit2 : float32
        Square of the largest distance from the origin that counts, in grid points.
    share : (B, Q) float32
    kx, ky : (M,) int32
    planes : (B, K, 2, 3) float32
    shift : (B, K, 2) float32
        Pixels.
    data_re, data_im, power : (B, M) float32
    box_size : int
    radius : int
        Largest |kx|, |ky|.
    out : (B, K, 2, M) float32, output
    norm : (B, K) float32, output
    """
    n, m = data_re.shape
    step_y = 4 * (edge + 1)
    step_z = step_y * (2 * edge + 1)
    n_volumes = packed.shape[0]
    one = np.float32(1.0)
    zero = np.float32(0.0)
    for b in prange(n):
        flip = np.empty(m, np.float32)
        corner = np.empty(m, np.int32)
        fx, fy, fz = np.empty(m, np.float32), np.empty(m, np.float32), np.empty(m, np.float32)
        re, im = np.empty(m, np.float32), np.empty(m, np.float32)
        moved_re, moved_im = np.empty(m, np.float32), np.empty(m, np.float32)
        along = np.empty((2, 2 * radius + 1, 2), np.float32)
        for k in range(planes.shape[1]):
            tx, ty = shift[b, k, 0], shift[b, k, 1]
            if k == 0 or tx != shift[b, k - 1, 0] or ty != shift[b, k - 1, 1]:
                # The image moved back: d exp(+2 pi i k.t / D), from the phases along x and along y.
                for axis in range(2):
                    for i in range(-radius, radius + 1):
                        angle = 2.0 * math.pi * i * shift[b, k, axis] / box_size
                        along[axis, i + radius, 0] = math.cos(angle)
                        along[axis, i + radius, 1] = math.sin(angle)
                for t in range(m):
                    i, j = kx[t] + radius, ky[t] + radius
                    c = along[0, i, 0] * along[1, j, 0] - along[0, i, 1] * along[1, j, 1]
                    s = along[0, i, 0] * along[1, j, 1] + along[0, i, 1] * along[1, j, 0]
                    moved_re[t] = data_re[b, t] * c - data_im[b, t] * s
                    moved_im[t] = data_re[b, t] * s + data_im[b, t] * c
            ax, ay, az = planes[b, k, 0, 0] * scale, planes[b, k, 0, 1] * scale, planes[b, k, 0, 2] * scale
            bx, by, bz = planes[b, k, 1, 0] * scale, planes[b, k, 1, 1] * scale, planes[b, k, 1, 2] * scale
            for t in range(m):
                u, v = np.float32(kx[t]), np.float32(ky[t])
                x, y, z = u * ax + v * bx, u * ay + v * by, u * az + v * bz
                sign = one if x >= zero else -one
                x, y, z = x * sign, y * sign, z * sign
                inside = x * x + y * y + z * z <= limit2
                x, y, z = (x, y, z) if inside else (zero, zero, zero)
                xf, yf, zf = np.floor(x), np.floor(y), np.floor(z)
                fx[t], fy[t], fz[t] = x - xf, y - yf, z - zf
                flip[t] = sign
                place = np.int32(zf) * np.int32(step_z) + np.int32(yf) * np.int32(step_y) + np.int32(4) * np.int32(xf)
                corner[t] = place + np.int32(edge * (step_z + step_y)) if inside else np.int32(-1)
            for q in range(n_volumes):
                volume = packed[q]
                weight = share[b, q]
                for t in range(m):
                    if corner[t] >= 0:
                        u, v = _interpolate(volume, np.intp(corner[t]), np.intp(step_z), fx[t], fy[t], fz[t])
                    else:
                        u, v = zero, zero
                    if q == 0:
                        re[t], im[t] = weight * u, weight * v
                    else:
                        re[t] += weight * u
                        im[t] += weight * v
            total = zero
            for t in range(m):
                u, v = re[t], im[t] * flip[t]
                out[b, k, 0, t] = u * moved_re[t] + v * moved_im[t]
                out[b, k, 1, t] = u * moved_im[t] - v * moved_re[t]
                total += power[b, t] * (u * u + v * v)
            norm[b, k] = total


@dataclass(frozen=True)
class Packed:
    """Volumes on one grid, cut to a band, in the order that the kernel wants.

    Attributes
    ----------
    values : Tensor
        (Q, Z * Y * X * 4 + 4) float32: of each voxel its value and that of its neighbour along y.
    edge : int
        Index h of the origin along z and y: Z = Y = 2 h + 1, X = h + 1.
    oversampling : int
        Grid points per cycle per box.
    reach : float
        The band for which it was cut, in cycles per box of the model.
    limit : float
        Largest distance from the origin that has values.
    """

    values: Tensor
    edge: int
    oversampling: int
    reach: float
    limit: float

    @staticmethod
    def _edge(volumes: Sequence[FourierVolume], reach: float) -> int:
        grid = volumes[0].grid
        return min(grid.half, math.ceil((reach + RIM) * grid.oversampling) + 1)

    @classmethod
    def fits(cls, volumes: Sequence[FourierVolume], reach: float) -> bool:
        """Whether places in it can be counted in 32 bits."""
        h = cls._edge(volumes, reach)
        return (2 * h + 1) ** 2 * (h + 1) * 4 < 1 << 31

    @classmethod
    def of(cls, volumes: Sequence[FourierVolume], reach: float) -> Packed:
        """Pack Q volumes of the same grid for slices with |k| <= ``reach``."""
        grid, h = volumes[0].grid, cls._edge(volumes, reach)
        middle = slice(grid.half - h, grid.half + h + 1)
        size = (2 * h + 1) ** 2 * (h + 1) * 4
        out = torch.zeros(len(volumes), size + 4)  # the last voxel is asked for its neighbour, with weight 0
        for row, volume in zip(out, volumes, strict=True):
            if volume.grid != grid:
                raise ValueError(f"volumes on {volume.grid} and on {grid} cannot be sliced together")
            values = torch.view_as_real(volume.data[middle, middle, : h + 1].resolve_conj())
            cells = row[:size].view(2 * h + 1, 2 * h + 1, h + 1, 2, 2)
            cells[..., 0, :] = values
            cells[:, :-1, :, 1, :] = values[:, 1:]
        return cls(out, h, grid.oversampling, reach, min(reach, grid.radius))


def products(
    packed: Packed, share: Tensor, kxy: Tensor, planes: Tensor, shift_px: Tensor, data: Tensor, power: Tensor,
    box_size: int
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Shifted images times slices, and the slices' norms under the images' CTF.

    Parameters
    ----------
    packed : Packed
    share : Tensor
        (B, Q) weights of the volumes for each image.
    kxy : Tensor
        (M, 2) integers.
    planes : Tensor
        (B, K, 2, 3).
    shift_px : Tensor
        (B, K, 2).
    data : Tensor
        (2, B, M) float32, real and imaginary parts of CTF times image.
    power : Tensor
        (B, M) float32.
    box_size : int

    Returns
    -------
    Tensor, Tensor
        (B, K, 2, M): real and imaginary part of conj(phase P) d, and (B, K): sum of power |P|².
    """
    n, n_candidates, count = planes.shape[0], planes.shape[1], len(kxy)
    out = torch.empty(n, n_candidates, 2, count)
    norm = torch.empty(n, n_candidates)
    k = kxy.to(torch.int32)
    limit2 = np.float32(((packed.limit + RIM) * packed.oversampling) ** 2)
    with threads_of_torch():
        _products(
            packed.values.numpy(), packed.edge, np.float32(packed.oversampling), limit2,
            share.float().contiguous().numpy(), k[:, 0].contiguous().numpy(), k[:, 1].contiguous().numpy(),
            planes.float().contiguous().numpy(), shift_px.float().contiguous().numpy(), data[0].numpy(),
            data[1].numpy(), power.numpy(), box_size, int(k.abs().max()), out.numpy(), norm.numpy(),
        )  # fmt: skip
    return out, norm

"""The subspace engine's loops as Triton kernels for NVIDIA GPUs; :mod:`.torch_form` is their oracle and what else runs.

Intermediate values stay in registers, where the torch form writes and reads all of them. Every sum is taken in one
order, by one program: an image's products over its coefficients, and a voxel's equations over the coefficients of the
eight cells around it, which are sorted by cell beforehand. So there are no atomic additions, and no two runs differ.

Imported only where there is a GPU and Triton; Triton's interpreter runs the kernels on a CPU in the tests.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Float32, Integer
from torch import Tensor

from cryodrgn_ext.engines.subspace.torch_form import Chunk, Operators, upper_triangles, with_zeros
from cryodrgn_ext.fourier.slices import RIM

COEFFICIENTS = 32  # of an image at a time
SEGMENT = 16  # coefficients of a cell at a time


@triton.jit
def _places(kxy, planes, ctf, i, m, n_m, limit2):
    """Points on the side x >= 0 (0 for those that do not count), which were flipped, which count, and the CTF."""
    kx = tl.load(kxy + 2 * m, mask=m < n_m, other=0.0)
    ky = tl.load(kxy + 2 * m + 1, mask=m < n_m, other=0.0)
    x = kx * tl.load(planes + 6 * i) + ky * tl.load(planes + 6 * i + 3)
    y = kx * tl.load(planes + 6 * i + 1) + ky * tl.load(planes + 6 * i + 4)
    z = kx * tl.load(planes + 6 * i + 2) + ky * tl.load(planes + 6 * i + 5)
    flip = x < 0
    c = tl.load(ctf + i * n_m + m, mask=m < n_m, other=0.0)
    inside = (x * x + y * y + z * z <= limit2) & (c != 0) & (m < n_m)
    sign = tl.where(inside, tl.where(flip, -1.0, 1.0), 0.0)
    return x * sign, y * sign, z * sign, flip, inside, c


@triton.jit
def _components_at(components, table, x, y, z, inside, half, width, Q: tl.constexpr, M: tl.constexpr):
    """Real and imaginary parts (M, Q) of the components at points."""
    column = tl.arange(0, Q)
    x0, y0, z0 = tl.floor(x), tl.floor(y), tl.floor(z)
    fx, fy, fz = x - x0, y - y0, z - z0
    xi, yi, zi = x0.to(tl.int64), y0.to(tl.int64) + half, z0.to(tl.int64) + half
    re = tl.zeros((M, Q), tl.float32)
    im = tl.zeros((M, Q), tl.float32)
    for corner in tl.static_range(8):  # bits z, y, x
        w = (fz if corner // 4 else 1.0 - fz) * (fy if corner // 2 % 2 else 1.0 - fy) * (fx if corner % 2 else 1.0 - fx)
        w = tl.where(inside, w, 0.0)
        row = tl.load(table + (zi + corner // 4) * (2 * half + 1) + yi + corner // 2 % 2) + xi + corner % 2
        at = row[:, None] * (2 * width) + column[None, :]
        there = inside[:, None] & (column < width)[None, :]
        re += w[:, None] * tl.load(components + at, mask=there, other=0.0)
        im += w[:, None] * tl.load(components + at + width, mask=there, other=0.0)
    return re, im


@triton.jit
def _consensus_at(base, x, y, z, inside, base_half, oversampling, base_limit2, M: tl.constexpr):
    """Real and imaginary parts (M,) of the consensus at points."""
    x, y, z = x * oversampling, y * oversampling, z * oversampling
    inside = inside & (x * x + y * y + z * z <= base_limit2)
    x, y, z = tl.where(inside, x, 0.0), tl.where(inside, y, 0.0), tl.where(inside, z, 0.0)
    x0, y0, z0 = tl.floor(x), tl.floor(y), tl.floor(z)
    fx, fy, fz = x - x0, y - y0, z - z0
    xi, yi, zi = x0.to(tl.int64), y0.to(tl.int64) + base_half, z0.to(tl.int64) + base_half
    re = tl.zeros((M,), tl.float32)
    im = tl.zeros((M,), tl.float32)
    for corner in tl.static_range(8):  # bits z, y, x
        w = (fz if corner // 4 else 1.0 - fz) * (fy if corner // 2 % 2 else 1.0 - fy) * (fx if corner % 2 else 1.0 - fx)
        at = 2 * (((zi + corner // 4) * (2 * base_half + 1) + yi + corner // 2 % 2) * (base_half + 1) + xi + corner % 2)
        re += w * tl.load(base + at, mask=inside, other=0.0)
        im += w * tl.load(base + at + 1, mask=inside, other=0.0)
    return re, im


@triton.jit
def _gram(
    components, table, base, kxy, planes, values, ctf, inner, cross, n_m, width, half, limit2, base_half, oversampling,
    base_limit2, Q: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """Products (Q, Q) and (Q,) of one image; see :func:`.kernels.gram`."""
    i = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, Q)
    g = tl.zeros((Q, Q), tl.float32)
    h = tl.zeros((Q,), tl.float32)
    for first in range(0, n_m, M):
        m = first + tl.arange(0, M)
        x, y, z, flip, inside, c = _places(kxy, planes, ctf, i, m, n_m, limit2)
        re, im = _components_at(components, table, x, y, z, inside, half, width, Q, M)
        s_re, s_im = _consensus_at(base, x, y, z, inside, base_half, oversampling, base_limit2, M)
        leading = (column == 0)[None, :]
        re = (re + tl.where(leading, s_re[:, None], 0.0)) * c[:, None]
        im = (im + tl.where(leading, s_im[:, None], 0.0)) * c[:, None]
        place = 2 * (i * n_m + m)
        data_re = tl.load(values + place, mask=inside, other=0.0)
        data_im = tl.load(values + place + 1, mask=inside, other=0.0)
        data_im = tl.where(flip, -data_im, data_im)
        g += tl.dot(tl.trans(re), re, input_precision="ieee") + tl.dot(tl.trans(im), im, input_precision="ieee")
        h += tl.sum(re * data_re[:, None] + im * data_im[:, None], 0)
    tl.store(inner + i * Q * Q + column[:, None] * Q + column[None, :], g)
    tl.store(cross + i * Q + column, h)


@triton.jit
def _rest(
    components, table, base, kxy, planes, values, ctf, scale, moments, rest, square, fraction, cell, half_set, n_m,
    width, half, limit2, base_half, oversampling, base_limit2, n_cells, Q: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """What the coefficients of an image add at their corners, where in their cell they lie, and which cell it is."""
    i = tl.program_id(0).to(tl.int64)
    m = tl.program_id(1) * M + tl.arange(0, M)
    column = tl.arange(0, Q)
    x, y, z, flip, inside, c = _places(kxy, planes, ctf, i, m, n_m, limit2)
    re, im = _components_at(components, table, x, y, z, inside, half, width, Q, M)
    s_re, s_im = _consensus_at(base, x, y, z, inside, base_half, oversampling, base_limit2, M)
    gain = c * tl.load(scale + i)
    known = (column < width)[:, None] & (column < width)[None, :]
    e = tl.load(moments + i * Q * Q + column[:, None] * Q + column[None, :], mask=known, other=0.0)
    mean = tl.load(moments + i * Q * Q + column)
    place = i * n_m + m
    data_re = tl.load(values + 2 * place, mask=inside, other=0.0)
    data_im = tl.load(values + 2 * place + 1, mask=inside, other=0.0)
    data_im = tl.where(flip, -data_im, data_im)
    left_re, left_im = gain * (data_re - gain * s_re), gain * (data_im - gain * s_im)
    model_re = tl.dot(re, e, input_precision="ieee")
    model_im = tl.dot(im, e, input_precision="ieee")
    at = place[:, None] * (2 * Q) + column[None, :]
    there = (m < n_m)[:, None] & (column >= 0)[None, :]
    tl.store(rest + at, left_re[:, None] * mean[None, :] - (gain * gain)[:, None] * model_re, mask=there)
    tl.store(rest + at + Q, left_im[:, None] * mean[None, :] - (gain * gain)[:, None] * model_im, mask=there)
    tl.store(square + place, gain * gain, mask=m < n_m)
    x0, y0, z0 = tl.floor(x), tl.floor(y), tl.floor(z)
    tl.store(fraction + 3 * place, x - x0, mask=m < n_m)
    tl.store(fraction + 3 * place + 1, y - y0, mask=m < n_m)
    tl.store(fraction + 3 * place + 2, z - z0, mask=m < n_m)
    number = ((z0.to(tl.int64) + half) * (2 * half + 1) + y0.to(tl.int64) + half) * (half + 1) + x0.to(tl.int64)
    number = tl.where(inside, number + tl.load(half_set + i) * n_cells, 2 * n_cells)
    tl.store(cell + place, number, mask=m < n_m)


@triton.jit
def _collect(
    coordinates, start, order, fraction, square, rest, packed, weight, right, n_m, n_voxels, n_cells, length, width,
    half, Q: tl.constexpr, L: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    """Add to the equations of one voxel and half-set what the coefficients of the eight cells around it bring."""
    v = tl.program_id(0).to(tl.int64)
    set_ = tl.program_id(1).to(tl.int64)
    entry, column = tl.arange(0, L), tl.arange(0, Q)
    vz, vy, vx = tl.load(coordinates + 3 * v), tl.load(coordinates + 3 * v + 1), tl.load(coordinates + 3 * v + 2)
    heavy = tl.zeros((L,), tl.float32)
    sum_re = tl.zeros((Q,), tl.float32)
    sum_im = tl.zeros((Q,), tl.float32)
    for corner in tl.static_range(8):  # bits z, y, x
        z, y, x = vz - corner // 4 + half, vy - corner // 2 % 2 + half, vx - corner % 2
        exists = (z >= 0) & (y >= 0) & (x >= 0)
        number = tl.where(exists, set_ * n_cells + (z * (2 * half + 1) + y) * (half + 1) + x, 0)
        begin = tl.load(start + number)
        end = tl.where(exists, tl.load(start + number + 1), begin)
        for first in range(begin, end, S):
            here = first + tl.arange(0, S)
            some = here < end
            place = tl.load(order + here, mask=some, other=0)
            fx = tl.load(fraction + 3 * place, mask=some, other=0.0)
            fy = tl.load(fraction + 3 * place + 1, mask=some, other=0.0)
            fz = tl.load(fraction + 3 * place + 2, mask=some, other=0.0)
            w = (
                (fz if corner // 4 else 1.0 - fz)
                * (fy if corner // 2 % 2 else 1.0 - fy)
                * (fx if corner % 2 else 1.0 - fx)
            )
            w = tl.where(some, w, 0.0)
            load = w * tl.load(square + place, mask=some, other=0.0)
            triangle = (place // n_m)[:, None] * length + entry[None, :]
            there = some[:, None] & (entry < length)[None, :]
            heavy += tl.sum(load[:, None] * tl.load(packed + triangle, mask=there, other=0.0), 0)
            at = place[:, None] * (2 * Q) + column[None, :]
            there = some[:, None] & (column >= 0)[None, :]
            sum_re += tl.sum(w[:, None] * tl.load(rest + at, mask=there, other=0.0), 0)
            sum_im += tl.sum(w[:, None] * tl.load(rest + at + Q, mask=there, other=0.0), 0)
    own = set_ * n_voxels + v
    at = weight + own * length + entry
    tl.store(at, tl.load(at, mask=entry < length, other=0.0) + heavy, mask=entry < length)
    at = right + own * 2 * width + column
    tl.store(at, tl.load(at, mask=column < width, other=0.0) + sum_re, mask=column < width)
    tl.store(at + width, tl.load(at + width, mask=column < width, other=0.0) + sum_im, mask=column < width)


def _square_size(width: int) -> int:
    """Columns of a product's operand: Triton wants a power of 2, and 16 at least."""
    return max(16, int(triton.next_power_of_2(width)))


def _consensus(operators: Operators) -> tuple[Tensor, int, float, float]:
    """Real view of the consensus, half of its grid, oversampling, and square of its reach in grid points."""
    grid = operators.base.grid
    reach = (grid.radius + RIM) * grid.oversampling
    return torch.view_as_real(operators.base.data), grid.half, float(grid.oversampling), float(reach**2)


def gram_triton(
    operators: Operators, components: Float32[Tensor, "V 2 Qp"], n_columns: int, chunk: Chunk
) -> tuple[Float32[Tensor, "B Q Q"], Float32[Tensor, "B Q"]]:
    """See :meth:`Operators.gram`."""
    (n, n_m), width, device = chunk.values.shape, components.shape[2], components.device
    q = _square_size(width)
    inner = torch.empty(n, q, q, device=device)
    cross = torch.empty(n, q, device=device)
    kxy, table = operators.on(device)
    base, base_half, oversampling, base_limit2 = _consensus(operators)
    _gram[(n,)](
        components, table, base, kxy, chunk.planes.contiguous(),
        torch.view_as_real(chunk.values.contiguous()), chunk.whitened_ctf.contiguous(), inner, cross, n_m, width,
        operators.grid.half, float(operators.limit2), base_half, oversampling, base_limit2, Q=q, M=COEFFICIENTS,
    )  # fmt: skip
    return inner[:, :n_columns, :n_columns], cross[:, :n_columns]


def accumulate_triton(
    operators: Operators,
    components: Float32[Tensor, "V 2 Qp"],
    chunk: Chunk,
    particle_scale: Float[Tensor, " B"],
    half_set: Integer[Tensor, " B"],
    moments: Float32[Tensor, "B Q Q"],
    weight: Float32[Tensor, "2 V L"],
    right: Float32[Tensor, "2 V 2 Qp"],
) -> None:
    """See :meth:`Operators.accumulate`."""
    (n, n_m), width, device = chunk.values.shape, components.shape[2], components.device
    grid, columns = operators.grid, _square_size(components.shape[2])
    n_cells = (2 * grid.half + 1) ** 2 * (grid.half + 1)
    packed, wide = upper_triangles(moments, weight.shape[2]), with_zeros(moments, columns, columns)
    rest = torch.empty(n, n_m, 2, columns, device=device)
    square, fraction = torch.empty(n, n_m, device=device), torch.empty(n, n_m, 3, device=device)
    cell = torch.empty(n * n_m, dtype=torch.int64, device=device)
    kxy, table = operators.on(device)
    base, base_half, oversampling, base_limit2 = _consensus(operators)
    _rest[(n, triton.cdiv(n_m, COEFFICIENTS))](
        components, table, base, kxy, chunk.planes.contiguous(),
        torch.view_as_real(chunk.values.contiguous()), chunk.whitened_ctf.contiguous(),
        particle_scale.to(device).float().contiguous(), wide, rest, square, fraction, cell,
        half_set.to(device).contiguous(), n_m, width, grid.half, float(operators.limit2), base_half, oversampling,
        base_limit2, n_cells, Q=columns, M=COEFFICIENTS,
    )  # fmt: skip
    found, order = torch.sort(cell, stable=True)
    start = torch.searchsorted(found, torch.arange(2 * n_cells + 1, device=device))
    _collect[(grid.n_voxels, 2)](
        grid.coordinates.to(device).contiguous(), start, order, fraction, square, rest, packed, weight, right, n_m,
        grid.n_voxels, n_cells, weight.shape[2], width, grid.half, Q=columns,
        L=triton.next_power_of_2(weight.shape[2]), S=SEGMENT,
    )  # fmt: skip

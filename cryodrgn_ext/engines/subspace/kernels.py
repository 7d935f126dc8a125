"""Compiled CPU kernels of the subspace engine; :mod:`.torch_form` holds their plain forms.

``gram`` interpolates all components at the coefficients of an image and forms their inner products with each other
and with the image. ``accumulate`` spreads the normal equations of the components over the voxels. What they touch is
far larger than a processor's cache. So the coefficients of many images are first sorted into small cubes of the
volume (:mod:`.tiles`), and each cube is worked through for all images at once.

Sums do not depend on the threads: the former gives every thread whole images, the latter a slab of voxels, which it
goes through cube by cube in one order.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from cryodrgn_ext.engines.subspace.tiles import EDGE
from cryodrgn_ext.fourier.compilation import (
    FAST,
    Complex64Array,
    Float32Array,
    Float64Array,
    Int32Array,
    Int64Array,
    compiled,
    inlined,
)
from cryodrgn_ext.fourier.simd import (
    WIDTH,
    add_scaled,
    add_two_scaled,
    interpolate,
    look_up,
    prefetch,
    scaled,
    subtract_product,
)
from cryodrgn_ext.fourier.trilinear import cell, interpolate_half_volume, plane_point

SOON = 24  # coefficients that are asked for before they are needed
AHEAD = 3  # voxels whose sums are asked for before they are needed
RIDGE = 1e-5  # added to the diagonal, in its own units: sums in single precision are not exactly positive


@inlined
def point_of(
    kxy: Float32Array, planes: Float32Array, i: int | np.int32, t: int | np.int32
) -> tuple[np.float32, np.float32, np.float32, np.bool_]:
    """Where coefficient t of image i lies, on the side x >= 0, and whether it had to be brought there."""
    x, y, z = plane_point(kxy, planes, i, t)
    flip = x < 0
    if flip:
        x, y, z = -x, -y, -z
    return x, y, z, flip


@inlined
def consensus_at(base: Complex64Array, x: np.float32, y: np.float32, z: np.float32, scale: np.float32) -> np.complex64:
    """Value of the consensus, on its grid, at a point in cycles per box."""
    return interpolate_half_volume(base, x * scale, y * scale, z * scale)


@compiled(FAST)
def gram(
    components: Float32Array, table: Int64Array, base: Complex64Array, oversampling: int, kxy: Float32Array, planes:
    Float32Array, values: Complex64Array, whitened_ctf: Float32Array, order: Int32Array, bits: int, start: Int64Array,
    inner: Float32Array, cross: Float32Array,
) -> None:  # fmt: skip
    """Inner products of an image's model terms.

    With p_0 = ctf (base + P_0) and p_j = ctf P_j at the image's coefficients, ``inner[i, j, l] = Re <p_j, p_l>`` and
    ``cross[i, j] = Re <p_j, image>``.

    Parameters
    ----------
    components : (V, 2, Qp) float32
    table : (2 h + 1, 2 h + 1) int64
    base : (Z, Y, X) complex64
        Consensus on its grid, spaced 1 / oversampling.
    oversampling : int
    kxy : (M, 2) float32
    planes : (B, 2, 3) float32
        Points are kx planes[0] + ky planes[1].
    values : (B, M) complex64
    whitened_ctf : (B, M) float32
    order : (R,) int32
        Coefficients ``i << bits | t`` that count, by cube, in each cube by image.
    bits : int
    start : (T, K + 1) int64
        Where in ``order`` each cube's part of each block of images begins, and ends.
    inner : (B, Q, Q) float32, output
    cross : (B, Qp) float32, output
    """
    n, m = values.shape
    width = components.shape[2]
    mask = (1 << bits) - 1
    flat_values, flat_ctf = values.reshape(-1), whitened_ctf.reshape(-1)
    q = inner.shape[1]
    half = (table.shape[0] - 1) // 2
    one = np.float32(1.0)
    scale = np.float32(oversampling)
    flat = components.reshape(-1)
    row = 2 * width
    n_tiles, n_blocks = start.shape[0], start.shape[1] - 1
    last_of_all = len(order) - 1
    for block in prange(n_blocks):
        first, last = block * n // n_blocks, (block + 1) * n // n_blocks
        g = np.zeros((last - first) * q * width, np.float32)
        h = np.zeros((last - first) * width, np.float32)
        term = np.zeros(row, np.float32)  # real parts, then imaginary parts
        for tile in range(n_tiles):
            for place in range(start[tile, block], start[tile, block + 1]):
                i, t = order[place] >> bits, order[place] & mask
                later = order[min(place + SOON, last_of_all)]
                look_up(flat_values, (later >> bits) * m + (later & mask))
                look_up(flat_ctf, (later >> bits) * m + (later & mask))
                x, y, z, flip = point_of(kxy, planes, i, t)
                c = whitened_ctf[i, t]
                fx, fy, fz, x0, y0, z0 = cell(x, y, z, half)
                v00, v01 = (table[z0, y0] + x0) * row, (table[z0, y0 + 1] + x0) * row
                v10, v11 = (table[z0 + 1, y0] + x0) * row, (table[z0 + 1, y0 + 1] + x0) * row
                near, far = (one - fz) * c, fz * c
                for k in range(0, row, WIDTH):
                    interpolate(
                        term, k, flat, v00 + k, v01 + k, v10 + k, v11 + k, row, one - fx, fx,
                        near * (one - fy), near * fy, far * (one - fy), far * fy,
                    )  # fmt: skip
                s = consensus_at(base, x, y, z, scale)
                term[0] += c * s.real
                term[width] += c * s.imag
                data_re, data_im = values[i, t].real, values[i, t].imag
                if flip:
                    data_im = -data_im
                own = (i - first) * q * width
                for k in range(0, width, WIDTH):
                    for j in range(min(q, k + WIDTH)):
                        add_two_scaled(g, own + j * width + k, term, k, term[j], width + k, term[width + j])
                    add_two_scaled(h, (i - first) * width + k, term, k, data_re, width + k, data_im)
        for i in range(first, last):
            own = (i - first) * q * width
            for j in range(q):
                for k in range(q):
                    inner[i, j, k] = g[own + min(j, k) * width + max(j, k)]
            for k in range(width):
                cross[i, k] = h[(i - first) * width + k]


@compiled(FAST)
def accumulate(
    components: Float32Array, table: Int64Array, base: Complex64Array, oversampling: int, kxy: Float32Array, planes:
    Float32Array, values: Complex64Array, whitened_ctf: Float32Array, order: Int32Array, bits: int, start: Int64Array,
    lowest: Int64Array, particle_scale: Float32Array, half_set: Int64Array, moments: Float32Array, packed: Float32Array,
    weight: Float32Array, right: Float32Array, bounds: Int64Array,
) -> None:  # fmt: skip
    """Normal equations of the components, linearised at their present values.

    Each image i of scale a has weights u of the components (u_0 = 1) of second moments E = E[u u^T]. With w the
    trilinear weight of a voxel at a coefficient, the sums over images and coefficients are

        weight[half, v] += w (a ctf)^2 E (upper triangle),
        right[half, v]  += w a ctf (E[u] (image - a ctf base) - a ctf E P),    P the interpolated components.

    Parameters
    ----------
    components, table, base, oversampling, kxy, planes, values, whitened_ctf, order, bits, start
        See :func:`gram`.
    lowest : (T,) int64
        Lowest plane z of each cube.
    particle_scale : (B,) float32
    half_set : (B,) int64
        0 or 1.
    moments : (B, Q, Qp) float32
        E; its first row is E[u].
    packed : (B, Lp) float32
        Upper triangle of E, row by row.
    weight : (2, V, Lp) float32, added to
    right : (2, V, 2, Qp) float32, added to
    bounds : (S + 1,) int64
        Planes z where the slabs begin.
    """
    m = values.shape[1]
    mask = (1 << bits) - 1
    flat_values, flat_ctf = values.reshape(-1), whitened_ctf.reshape(-1)
    n_voxels, _, width = components.shape
    q = moments.shape[1]
    length = packed.shape[1]
    half = (table.shape[0] - 1) // 2
    one = np.float32(1.0)
    scale = np.float32(oversampling)
    flat, flat_moments, flat_packed = components.reshape(-1), moments.reshape(-1), packed.reshape(-1)
    flat_weight, flat_right = weight.reshape(-1), right.reshape(-1)
    row = 2 * width
    n_tiles, n_blocks = start.shape[0], start.shape[1] - 1
    last_of_all = len(order) - 1
    for slab in prange(bounds.shape[0] - 1):
        low, high = bounds[slab], bounds[slab + 1]
        term = np.zeros(row, np.float32)
        out = np.zeros(row, np.float32)
        corner = np.zeros(8, np.int64)
        share = np.zeros(8, np.float32)
        load = np.zeros(n_voxels, np.float32)  # what an image adds to a voxel, before it is multiplied by E
        touched = np.zeros(8 * m + AHEAD, np.int64)
        for tile in range(n_tiles):
            if lowest[tile] >= high or lowest[tile] + EDGE < low:
                continue
            begin, end = start[tile, 0], start[tile, n_blocks]
            count = 0
            for place in range(begin, end):
                i, t = order[place] >> bits, order[place] & mask
                later = order[min(place + SOON, last_of_all)]
                look_up(flat_values, (later >> bits) * m + (later & mask))
                look_up(flat_ctf, (later >> bits) * m + (later & mask))
                x, y, z, flip = point_of(kxy, planes, i, t)
                fx, fy, fz, x0, y0, z0 = cell(x, y, z, half)
                if z0 + 1 >= low and z0 < high:
                    v00, v01 = table[z0, y0] + x0, table[z0, y0 + 1] + x0
                    v10, v11 = table[z0 + 1, y0] + x0, table[z0 + 1, y0 + 1] + x0
                    w00, w01, w10, w11 = (one - fz) * (one - fy), (one - fz) * fy, fz * (one - fy), fz * fy
                    gx = one - fx
                    for k in range(0, row, WIDTH):
                        interpolate(
                            term, k, flat, v00 * row + k, v01 * row + k, v10 * row + k, v11 * row + k, row, gx, fx,
                            w00, w01, w10, w11,
                        )  # fmt: skip
                    corner[0], corner[2], corner[4], corner[6] = v00, v01, v10, v11
                    corner[1], corner[3], corner[5], corner[7] = v00 + 1, v01 + 1, v10 + 1, v11 + 1
                    share[0], share[2], share[4], share[6] = w00 * gx, w01 * gx, w10 * gx, w11 * gx
                    share[1], share[3], share[5], share[7] = w00 * fx, w01 * fx, w10 * fx, w11 * fx
                    c = whitened_ctf[i, t] * particle_scale[i]
                    cc = c * c
                    s = consensus_at(base, x, y, z, scale)
                    data_re, data_im = values[i, t].real, values[i, t].imag
                    if flip:
                        data_im = -data_im
                    rest_re = c * (data_re - c * s.real)
                    rest_im = c * (data_im - c * s.imag)
                    mean = i * q * width
                    for k in range(0, width, WIDTH):
                        scaled(out, k, flat_moments, mean + k, rest_re)
                        scaled(out, width + k, flat_moments, mean + k, rest_im)
                        subtract_product(out, k, flat_moments, mean + k, width, q, term, 0, cc)
                        subtract_product(out, width + k, flat_moments, mean + k, width, q, term, width, cc)
                    home = half_set[i] * n_voxels
                    for side in range(0 if z0 >= low else 4, 8 if z0 + 1 < high else 4):
                        v, w = corner[side], share[side]
                        touched[count] = v
                        count += int(load[v] == 0)  # no branch: whether it is the first time cannot be foreseen
                        load[v] += w * cc
                        for k in range(0, row, WIDTH):
                            add_scaled(flat_right, (home + v) * row + k, out, k, w)
                if count > 0 and (place + 1 == end or order[place + 1] >> bits != i):
                    # The image's last coefficient in this cube: its share of E goes to all voxels that it touched.
                    home = half_set[i] * n_voxels
                    for k in range(AHEAD):
                        touched[count + k] = touched[count - 1]
                    for k in range(count):
                        ahead = (home + touched[k + AHEAD]) * length
                        v = touched[k]
                        along = load[v]
                        load[v] = 0
                        for j in range(0, length, WIDTH):
                            prefetch(flat_weight, ahead + j)
                            add_scaled(flat_weight, (home + v) * length + j, flat_packed, i * length + j, along)
                    count = 0


@compiled(FAST)
def solve(
    weight: Float32Array, right: Float32Array, components: Float32Array, precision: Float64Array, floor: Float64Array,
    shell: Int64Array, out: Float32Array,
) -> None:  # fmt: skip
    """Step of every voxel: ``out = components + (weight + precision)^-1 (right - precision components)``.

    Parameters
    ----------
    weight : (V, Lp) float32
        Upper triangles.
    right : (V, 2, Qp) float32
    components : (V, 2, Qp) float32
    precision : (S, Q) float64
        Prior precision per shell and component.
    floor : (S, Q) float64
        Least diagonal.
    shell : (V,) int64
    out : (V, 2, Qp) float32, output
    """
    q = precision.shape[1]
    for v in prange(weight.shape[0]):
        s = shell[v]
        a = np.zeros((q, q))
        r = np.zeros((2, q))
        place = 0
        for j in range(q):
            for k in range(j, q):
                a[k, j] = weight[v, place]
                place += 1
            a[j, j] = max(a[j, j], floor[s, j]) * (1.0 + RIDGE) + precision[s, j]
            r[0, j] = right[v, 0, j] - precision[s, j] * components[v, 0, j]
            r[1, j] = right[v, 1, j] - precision[s, j] * components[v, 1, j]
        for j in range(q):
            d = a[j, j]
            least = 1e-6 * d
            for k in range(j):
                d -= a[j, k] * a[j, k]
            d = np.sqrt(max(d, least) + 1e-30)
            a[j, j] = d
            for i in range(j + 1, q):
                e = a[i, j]
                for k in range(j):
                    e -= a[i, k] * a[j, k]
                a[i, j] = e / d
        for part in range(2):
            for j in range(q):
                e = r[part, j]
                for k in range(j):
                    e -= a[j, k] * r[part, k]
                r[part, j] = e / a[j, j]
            for j in range(q - 1, -1, -1):
                e = r[part, j]
                for k in range(j + 1, q):
                    e -= a[k, j] * r[part, k]
                r[part, j] = e / a[j, j]
                out[v, part, j] = components[v, part, j] + np.float32(r[part, j])

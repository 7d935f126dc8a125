"""Compiled CPU kernels of the subspace engine; :mod:`.torch_form` holds their plain forms.

``gram`` interpolates all components at the coefficients of an image and forms their inner products with each other
and with the image. ``accumulate`` spreads the normal equations of the components over the voxels. Both walk along the
rows of an image, so that neighbouring coefficients share the lines of memory that they touch; the second gives every
thread a slab of voxels and lets it walk through all images in order, so that sums do not depend on the threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

RIDGE = 1e-5  # added to the diagonal, in its own units: sums in single precision are not exactly positive
_MATH = {"contract", "reassoc", "nsz", "arcp"}  # all but the assumptions that NaN and infinity do not occur


def _compile(function: Any) -> Any:
    try:
        return njit(parallel=True, cache=True, nogil=True, fastmath=_MATH)(function)
    except RuntimeError:  # no place for the cache, as in a read-only container
        return njit(parallel=True, nogil=True, fastmath=_MATH)(function)


try:
    _inline = njit(cache=True, nogil=True, fastmath=_MATH, inline="always")
except RuntimeError:
    _inline = njit(nogil=True, fastmath=_MATH, inline="always")


@_compile
def gram(
    components: Any, table: Any, base: Any, oversampling: Any, radius2: Any, kxy: Any, planes: Any, values: Any,
    transfer: Any, inner: Any, cross: Any
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
    radius2 : float32
        Square of the largest |k| interpolated.
    kxy : (M, 2) float32
    planes : (B, 2, 3) float32
        Points are kx planes[0] + ky planes[1].
    values : (B, M) complex64
    transfer : (B, M) float32
    inner : (B, Q, Qp) float32, output
    cross : (B, Qp) float32, output
    """
    n, m = values.shape
    width = components.shape[2]
    q = inner.shape[1]
    half = (table.shape[0] - 1) // 2
    base_half = base.shape[2] - 1
    one = np.float32(1.0)
    scale = np.float32(oversampling)
    for i in prange(n):
        g = np.zeros((q, width), np.float32)
        h = np.zeros(width, np.float32)
        re = np.empty(width, np.float32)
        im = np.empty(width, np.float32)
        for t in range(m):
            c = transfer[i, t]
            kx, ky = kxy[t, 0], kxy[t, 1]
            x = kx * planes[i, 0, 0] + ky * planes[i, 1, 0]
            y = kx * planes[i, 0, 1] + ky * planes[i, 1, 1]
            z = kx * planes[i, 0, 2] + ky * planes[i, 1, 2]
            if c == 0 or not x * x + y * y + z * z <= radius2:
                continue
            data_re, data_im = values[i, t].real, values[i, t].imag
            if x < 0:
                x, y, z, data_im = -x, -y, -z, -data_im
            xf, yf, zf = np.floor(x), np.floor(y), np.floor(z)
            fx, fy, fz = np.float32(x - xf), np.float32(y - yf), np.float32(z - zf)
            x0, y0, z0 = np.int64(xf), np.int64(yf) + half, np.int64(zf) + half
            for j in range(width):
                re[j] = 0.0
                im[j] = 0.0
            for dz in range(2):
                wz = (fz if dz else one - fz) * c
                for dy in range(2):
                    wy = wz * (fy if dy else one - fy)
                    v = table[z0 + dz, y0 + dy] + x0
                    a, b = wy * (one - fx), wy * fx
                    for j in range(width):
                        re[j] += a * components[v, 0, j] + b * components[v + 1, 0, j]
                        im[j] += a * components[v, 1, j] + b * components[v + 1, 1, j]
            x, y, z = x * scale, y * scale, z * scale
            xf, yf, zf = np.floor(x), np.floor(y), np.floor(z)
            fx, fy, fz = np.float32(x - xf), np.float32(y - yf), np.float32(z - zf)
            x0, y0, z0 = np.int64(xf), np.int64(yf) + base_half, np.int64(zf) + base_half
            gx, gy, gz = one - fx, one - fy, one - fz
            s00 = base[z0, y0, x0] * gx + base[z0, y0, x0 + 1] * fx
            s01 = base[z0, y0 + 1, x0] * gx + base[z0, y0 + 1, x0 + 1] * fx
            s10 = base[z0 + 1, y0, x0] * gx + base[z0 + 1, y0, x0 + 1] * fx
            s11 = base[z0 + 1, y0 + 1, x0] * gx + base[z0 + 1, y0 + 1, x0 + 1] * fx
            s = (s00 * gy + s01 * fy) * gz + (s10 * gy + s11 * fy) * fz
            re[0] += c * s.real
            im[0] += c * s.imag
            for j in range(q):
                a, b = re[j], im[j]
                for k in range(width):
                    g[j, k] += a * re[k] + b * im[k]
            for k in range(width):
                h[k] += data_re * re[k] + data_im * im[k]
        inner[i] = g
        cross[i] = h


@_compile
def accumulate(
    components: Any, table: Any, base: Any, oversampling: Any, radius2: Any, kxy: Any, planes: Any, values: Any,
    transfer: Any, contrast: Any, half_set: Any, moments: Any, packed: Any, weight: Any, right: Any, bounds: Any
) -> None:  # fmt: skip
    """Normal equations of the components, linearised at their present values.

    Each image i with contrast a has weights u of the components (u_0 = 1) of second moments E = E[u u^T]. With w the
    trilinear weight of a voxel at a coefficient, the sums over images and coefficients are

        weight[half, v] += w (a ctf)^2 E (upper triangle),
        right[half, v]  += w a ctf (E[u] (image - a ctf base) - a ctf E P),    P the interpolated components.

    Parameters
    ----------
    components, table, base, oversampling, radius2, kxy, planes, values, transfer
        See :func:`gram`.
    contrast : (B,) float32
    half_set : (B,) int64
        0 or 1.
    moments : (B, Q, Qp) float32
        E; its first row is E[u].
    packed : (B, Lp) float32
        Upper triangle of E, row by row.
    weight : (2, V, Lp) float32, added to
    right : (2, V, 2, Qp) float32, added to
    bounds : (T + 1,) int64
        Planes z where the slabs begin.
    """
    n, m = values.shape
    width = components.shape[2]
    q = moments.shape[1]
    length = packed.shape[1]
    half = (table.shape[0] - 1) // 2
    base_half = base.shape[2] - 1
    one = np.float32(1.0)
    scale = np.float32(oversampling)
    for slab in prange(bounds.shape[0] - 1):
        low, high = bounds[slab], bounds[slab + 1]
        re = np.empty(width, np.float32)
        im = np.empty(width, np.float32)
        out_re = np.empty(width, np.float32)
        out_im = np.empty(width, np.float32)
        for i in range(n):
            half_of_image = half_set[i]
            for t in range(m):
                kx, ky = kxy[t, 0], kxy[t, 1]
                x = kx * planes[i, 0, 0] + ky * planes[i, 1, 0]
                z = kx * planes[i, 0, 2] + ky * planes[i, 1, 2]
                flip = x < 0
                if flip:
                    x, z = -x, -z
                zf = np.floor(z)
                if not (-half <= zf < half):
                    continue
                z0 = np.int64(zf) + half
                if z0 + 1 < low or z0 >= high:
                    continue
                y = kx * planes[i, 0, 1] + ky * planes[i, 1, 1]
                c = transfer[i, t] * contrast[i]
                if c == 0 or not x * x + y * y + z * z <= radius2:
                    continue
                data_re, data_im = values[i, t].real, values[i, t].imag
                if flip:
                    y, data_im = -y, -data_im
                xf, yf = np.floor(x), np.floor(y)
                fx, fy, fz = np.float32(x - xf), np.float32(y - yf), np.float32(z - zf)
                x0, y0 = np.int64(xf), np.int64(yf) + half
                for j in range(width):
                    re[j] = 0.0
                    im[j] = 0.0
                for dz in range(2):
                    wz = fz if dz else one - fz
                    for dy in range(2):
                        wy = wz * (fy if dy else one - fy)
                        v = table[z0 + dz, y0 + dy] + x0
                        a, b = wy * (one - fx), wy * fx
                        for j in range(width):
                            re[j] += a * components[v, 0, j] + b * components[v + 1, 0, j]
                            im[j] += a * components[v, 1, j] + b * components[v + 1, 1, j]
                xs, ys, zs = x * scale, y * scale, z * scale
                xf, yf, zf = np.floor(xs), np.floor(ys), np.floor(zs)
                gx1, gy1, gz1 = np.float32(xs - xf), np.float32(ys - yf), np.float32(zs - zf)
                bx, by, bz = np.int64(xf), np.int64(yf) + base_half, np.int64(zf) + base_half
                gx, gy, gz = one - gx1, one - gy1, one - gz1
                s00 = base[bz, by, bx] * gx + base[bz, by, bx + 1] * gx1
                s01 = base[bz, by + 1, bx] * gx + base[bz, by + 1, bx + 1] * gx1
                s10 = base[bz + 1, by, bx] * gx + base[bz + 1, by, bx + 1] * gx1
                s11 = base[bz + 1, by + 1, bx] * gx + base[bz + 1, by + 1, bx + 1] * gx1
                s = (s00 * gy + s01 * gy1) * gz + (s10 * gy + s11 * gy1) * gz1
                rest_re = c * (data_re - c * s.real)
                rest_im = c * (data_im - c * s.imag)
                cc = c * c
                for j in range(width):
                    out_re[j] = rest_re * moments[i, 0, j]
                    out_im[j] = rest_im * moments[i, 0, j]
                for k in range(q):
                    a, b = cc * re[k], cc * im[k]
                    for j in range(width):
                        out_re[j] -= a * moments[i, k, j]
                        out_im[j] -= b * moments[i, k, j]
                for dz in range(2):
                    zi = z0 + dz
                    if zi < low or zi >= high:
                        continue
                    wz = fz if dz else one - fz
                    for dy in range(2):
                        wy = wz * (fy if dy else one - fy)
                        row = table[zi, y0 + dy] + x0
                        for dx in range(2):
                            w = wy * (fx if dx else one - fx)
                            v = row + dx
                            wcc = w * cc
                            for k in range(length):
                                weight[half_of_image, v, k] += wcc * packed[i, k]
                            for j in range(width):
                                right[half_of_image, v, 0, j] += w * out_re[j]
                                right[half_of_image, v, 1, j] += w * out_im[j]


@_compile
def solve(weight: Any, right: Any, components: Any, precision: Any, floor: Any, shell: Any, out: Any) -> None:
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

"""Compiled CPU kernel of the local refinement: fit and normal equations of poses; :mod:`.local` holds its plain form.

One pass over an image's coefficients interpolates its volume and the volume's derivatives by rotations (see
:class:`~cryodrgn_ext.pose.local.DifferentiableVolume`), which lie beside each other in memory, and sums what
Gauss-Newton needs. Threads take whole images, so sums do not depend on them.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from cryodrgn_ext.fourier.compilation import FAST, Float32Array, Float64Array, Int64Array, compiled, threads_of_torch
from cryodrgn_ext.fourier.trilinear import cell, plane_point

PARAMETERS = 5  # three angles, two shifts


@compiled(FAST)
def _normal_equations(
    data: Float32Array, power: Float32Array, rows: Int64Array, planes: Float32Array, shift: Float32Array, kxy:
    Float32Array, fields: Float32Array, weights: Float32Array, scale: np.float32, limit2: np.float32, phase_step:
    np.float32, value: Float64Array, gradient: Float64Array, hessian: Float64Array,
) -> None:  # fmt: skip
    half = fields.shape[2] - 1
    n_components = fields.shape[3]
    one = np.float32(1.0)
    for i in prange(rows.shape[0]):
        row = rows[i]
        found = np.empty(8, np.float32)
        real = np.empty(5, np.float32)
        imaginary = np.empty(5, np.float32)
        fit = 0.0
        first = np.zeros(5, np.float64)
        second = np.zeros((5, 5), np.float64)
        for m in range(kxy.shape[0]):
            mass = power[row, m]
            if mass == 0.0:
                continue
            kx, ky = kxy[m, 0], kxy[m, 1]
            x, y, z = plane_point(kxy, planes, i, m)
            x, y, z = x * scale, y * scale, z * scale
            if not x * x + y * y + z * z <= limit2:
                continue
            sign = one
            if x < 0:
                x, y, z, sign = -x, -y, -z, -one
            fx, fy, fz, x0, y0, z0 = cell(x, y, z, half)
            gx, gy, gz = one - fx, one - fy, one - fz
            w000, w001 = gz * gy * gx, gz * gy * fx
            w010, w011 = gz * fy * gx, gz * fy * fx
            w100, w101 = fz * gy * gx, fz * gy * fx
            w110, w111 = fz * fy * gx, fz * fy * fx
            for e in range(8):
                found[e] = 0.0
            for c in range(n_components):
                share = weights[row, c]
                for e in range(8):
                    found[e] += share * (
                        w000 * fields[z0, y0, x0, c, e]
                        + w001 * fields[z0, y0, x0 + 1, c, e]
                        + w010 * fields[z0, y0 + 1, x0, c, e]
                        + w011 * fields[z0, y0 + 1, x0 + 1, c, e]
                        + w100 * fields[z0 + 1, y0, x0, c, e]
                        + w101 * fields[z0 + 1, y0, x0 + 1, c, e]
                        + w110 * fields[z0 + 1, y0 + 1, x0, c, e]
                        + w111 * fields[z0 + 1, y0 + 1, x0 + 1, c, e]
                    )
            p_re, p_im = found[0], sign * found[1]
            real[0], imaginary[0] = found[2], sign * found[3]
            real[1], imaginary[1] = found[4], sign * found[5]
            real[2], imaginary[2] = found[6], sign * found[7]
            # The particle displaced by t: d exp(2 pi i k.t / D) is held against P, whose derivative is -2 pi i k / D P.
            real[3], imaginary[3] = phase_step * kx * p_im, -phase_step * kx * p_re
            real[4], imaginary[4] = phase_step * ky * p_im, -phase_step * ky * p_re
            angle = phase_step * (kx * shift[i, 0] + ky * shift[i, 1])
            cosine, sine = np.cos(angle), np.sin(angle)
            a, b = data[row, m, 0], data[row, m, 1]
            d_re, d_im = a * cosine - b * sine, a * sine + b * cosine
            fit += p_re * d_re + p_im * d_im - np.float32(0.5) * mass * (p_re * p_re + p_im * p_im)
            r_re, r_im = d_re - mass * p_re, d_im - mass * p_im
            for j in range(5):
                first[j] += real[j] * r_re + imaginary[j] * r_im
                a, b = mass * real[j], mass * imaginary[j]
                for k in range(j + 1):
                    second[j, k] += a * real[k] + b * imaginary[k]
        value[i] = fit
        for j in range(5):
            gradient[i, j] = first[j]
            for k in range(j + 1):
                hessian[i, j, k] = second[j, k]
                hessian[i, k, j] = second[j, k]


def normal_equations_cpu(
    data: Tensor, power: Tensor, rows: Tensor, planes: Tensor, shift_px: Tensor, kxy: Tensor, fields: Tensor,
    weights: Tensor, oversampling: int, limit: float, box_size: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Fit (b,), gradient (b, 5) and Gauss-Newton matrix (b, 5, 5), float64; see :func:`.local.normal_equations`.

    Parameters
    ----------
    data : Tensor
        (B, M) complex64.
    power : Tensor
        (B, M) float32.
    rows : Tensor
        (b,) int64 images that are wanted.
    planes : Tensor
        (b, 2, 3) central planes.
    shift_px : Tensor
        (b, 2).
    kxy : Tensor
        (M', 2) frequencies, M' <= M.
    fields : Tensor
        (Z, Y, X, C, 4) complex64: of each component the volume and its derivatives by rotations.
    weights : Tensor
        (B, C) of each image's volume.
    oversampling, limit, box_size
        Of the grid; points farther out than ``limit`` cycles per box are left out.
    """
    count = len(rows)
    value = np.empty(count)
    gradient = np.empty((count, PARAMETERS))
    hessian = np.empty((count, PARAMETERS, PARAMETERS))
    phase_step = np.float32(2.0 * np.pi / box_size)
    scale, limit2 = np.float32(oversampling), np.float32((limit * oversampling) ** 2)
    with threads_of_torch():
        _normal_equations(
            torch.view_as_real(data).numpy(), power.numpy(), rows.numpy(), planes.float().contiguous().numpy(),
            shift_px.float().contiguous().numpy(), kxy.float().numpy(),
            torch.view_as_real(fields).flatten(-2).numpy(), weights.float().contiguous().numpy(),
            scale, limit2, phase_step, value, gradient, hessian,
        )  # fmt: skip
    return torch.from_numpy(value), torch.from_numpy(gradient), torch.from_numpy(hessian)

"""Beam tilt and higher-order aberrations in RELION's Zernike convention.

Symmetric (even) aberrations add to the phase gamma of the CTF; antisymmetric (odd) ones, beam tilt among them,
multiply an image's coefficients by a phase factor. RELION evaluates the polynomials at frequencies in 1/Å that are
not scaled to the unit disc, after the magnification matrix (Zivanov et al. 2020, IUCrJ 7, 253; checked against
RELION 3.1.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Complex64, Float, Float64, Real
from torch import Tensor


def electron_wavelength_A(voltage_kV: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Relativistic wavelength in Å, with RELION's constants: 12.2643247 / sqrt(V (1 + 0.978466e-6 V))."""
    volts = voltage_kV * 1e3
    return 12.2643247 / (volts * (1.0 + volts * 0.978466e-6)).sqrt()


def frequencies_per_A(
    kxy: Real[Tensor, "M 2"], pixel_size_A: float, box_size: int, mag_matrix: Float[Tensor, "2 2"] | None = None
) -> Float64[Tensor, "M 2"]:
    """Frequencies (M, 2) in 1/Å, float64, after the magnification matrix (2, 2): M (kx, ky) / (D * pixel size)."""
    k = kxy.double() / (box_size * pixel_size_A)
    return k if mag_matrix is None else k @ mag_matrix.double().to(k.device).T


def zernike(order: int, degree: int, frequency: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
    """Zernike polynomial Z_n^m at Cartesian points, R_n^|m|(r) cos(m phi), or sin(|m| phi) for m < 0.

    Parameters
    ----------
    order : int
        m, negative for the sine terms.
    degree : int
        n >= |m|, of the same parity as m.
    frequency : Tensor
        (..., 2) points (x, y); no normalisation is applied.

    Returns
    -------
    Tensor
        (...) in the dtype of ``frequency``.
    """
    m = abs(order)
    if degree < m or (degree - m) % 2:
        raise ValueError(f"no Zernike polynomial has order {order} and degree {degree}")
    x, y = frequency.unbind(-1)
    r2 = x * x + y * y
    radial = torch.zeros_like(r2)  # R_n^m(r) / r^m by Horner's rule in r^2
    for k in range((degree - m) // 2 + 1):
        factor = math.factorial(degree - k) / (
            math.factorial(k) * math.factorial((degree + m) // 2 - k) * math.factorial((degree - m) // 2 - k)
        )
        radial = radial * r2 + (-factor if k % 2 else factor)
    harmonic = (
        torch.complex(x, y) ** m if m else torch.complex(torch.ones_like(x), torch.zeros_like(x))
    )  # r^m e^(im phi)
    return radial * (harmonic.imag if order < 0 else harmonic.real)


def even_zernike_index(index: int) -> tuple[int, int]:
    """(m, n) of entry ``index`` of rlnEvenZernike: n = 0; 2, 2, 2; 4, ... with m = -n, -n + 2, ..., n."""
    k = math.isqrt(index)
    return 2 * (index - k * k) - 2 * k, 2 * k


def odd_zernike_index(index: int) -> tuple[int, int]:
    """(m, n) of entry ``index`` of rlnOddZernike: n = 1, 1; 3, 3, 3, 3; 5, ... with m = -n, -n + 2, ..., n."""
    k = (math.isqrt(1 + 4 * index) - 1) // 2
    n = 2 * k + 1
    return 2 * (index - k * (k + 1)) - n, n


def even_zernike_phase(coefficients: Sequence[float], frequency: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
    """Offset of gamma in radians from rlnEvenZernike at frequencies (..., 2) in 1/Å (see :func:`frequencies_per_A`)."""
    return _zernike_sum(coefficients, even_zernike_index, frequency)


def odd_zernike_phase(coefficients: Sequence[float], frequency: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
    """Antisymmetric phase in radians from rlnOddZernike at frequencies (..., 2) in 1/Å."""
    return _zernike_sum(coefficients, odd_zernike_index, frequency)


def _zernike_sum(
    coefficients: Sequence[float], order: Callable[[int], tuple[int, int]], frequency: Float[Tensor, "*batch 2"]
) -> Float[Tensor, "*batch"]:
    """Sum of the polynomials whose (m, n) are ``order`` of their places in a list of coefficients."""
    phase = torch.zeros(frequency.shape[:-1], dtype=frequency.dtype, device=frequency.device)
    for index, coefficient in enumerate(coefficients):
        if coefficient != 0.0:
            phase = phase + coefficient * zernike(*order(index), frequency)
    return phase


def beam_tilt_phase(
    beam_tilt_mrad: Sequence[float], cs_mm: float, voltage_kV: float, frequency: Float[Tensor, "*batch 2"]
) -> Float[Tensor, "*batch"]:
    """Antisymmetric phase in radians of axial coma: -2 pi Cs lambda^2 |k|^2 (k . tilt).

    RELION turns rlnBeamTiltX/Y (mrad) into odd Zernike terms of degree 3 with this value.

    Parameters
    ----------
    beam_tilt_mrad : (x, y)
    cs_mm, voltage_kV : float
    frequency : Tensor
        (..., 2) in 1/Å.
    """
    wavelength = float(electron_wavelength_A(torch.tensor(voltage_kV, dtype=torch.float64)))
    x, y = frequency.unbind(-1)
    # Cs in mm is 1e7 Å and tilt in mrad is 1e-3 rad
    scale = -2.0 * math.pi * cs_mm * 1e4 * wavelength**2
    return scale * (x * x + y * y) * (x * beam_tilt_mrad[0] + y * beam_tilt_mrad[1])


def antisymmetric_phase(
    frequency: Float[Tensor, "*batch 2"],
    odd_zernike: Sequence[float] = (),
    beam_tilt_mrad: Sequence[float] = (0.0, 0.0),
    cs_mm: float = 0.0,
    voltage_kV: float = 300.0,
) -> Float[Tensor, "*batch"]:
    """Total odd phase in radians as RELION combines beam tilt and rlnOddZernike.

    Where both are given, RELION lets the beam tilt REPLACE the Zernike terms of degree 3 and order -1 and +1
    (entries 3 and 4), and adds the compensating linear terms to entries 0 and 1; so does this.
    """
    coefficients = list(odd_zernike)
    if any(beam_tilt_mrad):
        for index in (3, 4):
            if index < len(coefficients):
                coefficients[index] = 0.0
    phase = odd_zernike_phase(coefficients, frequency)
    return phase + beam_tilt_phase(beam_tilt_mrad, cs_mm, voltage_kV, frequency)


def phase_factor(phase: Float[Tensor, "*batch"]) -> Complex64[Tensor, "*batch"]:
    """exp(i phase) as complex64: multiply predictions by it; multiply images by its conjugate to demodulate them."""
    return torch.complex(phase.cos(), phase.sin()).to(torch.complex64)

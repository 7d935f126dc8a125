from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import constants

from cryodrgn_ext.fourier.aberrations import (
    antisymmetric_phase,
    beam_tilt_phase,
    electron_wavelength_A,
    even_zernike_index,
    even_zernike_phase,
    frequencies_per_A,
    odd_zernike_index,
    odd_zernike_phase,
    phase_factor,
    zernike,
)
from cryodrgn_ext.fourier.half_plane import HalfPlane


@pytest.mark.parametrize("voltage_kV", [80.0, 200.0, 300.0])
def test_wavelength_is_that_of_a_relativistic_electron(voltage_kV: float) -> None:
    energy = voltage_kV * 1e3 * constants.e
    momentum = math.sqrt(2 * constants.m_e * energy * (1 + energy / (2 * constants.m_e * constants.c**2)))
    expected_A = constants.h / momentum * 1e10
    assert float(electron_wavelength_A(torch.tensor(voltage_kV))) == pytest.approx(expected_A, rel=1e-5)


def test_order_of_the_coefficients() -> None:
    assert [even_zernike_index(i) for i in range(10)] == [
        (0, 0), (-2, 2), (0, 2), (2, 2), (-4, 4), (-2, 4), (0, 4), (2, 4), (4, 4), (-6, 6),
    ]  # fmt: skip
    assert [odd_zernike_index(i) for i in range(8)] == [
        (-1, 1), (1, 1), (-3, 3), (-1, 3), (1, 3), (3, 3), (-5, 5), (-3, 5),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "order_degree", [even_zernike_index(i) for i in range(25)] + [odd_zernike_index(i) for i in range(20)]
)
def test_polynomials_agree_with_the_polar_definition(order_degree: tuple[int, int]) -> None:
    m, n = order_degree
    rng = np.random.default_rng(0)
    xy = rng.uniform(-1.2, 1.2, (50, 2))
    rho, phi = np.hypot(*xy.T), np.arctan2(xy[:, 1], xy[:, 0])
    radial = sum(
        (-1) ** k
        * math.factorial(n - k)
        / (math.factorial(k) * math.factorial((n + abs(m)) // 2 - k) * math.factorial((n - abs(m)) // 2 - k))
        * rho ** (n - 2 * k)
        for k in range((n - abs(m)) // 2 + 1)
    )
    expected = radial * (np.cos(m * phi) if m >= 0 else np.sin(-m * phi))
    np.testing.assert_allclose(zernike(m, n, torch.from_numpy(xy)).numpy(), expected, atol=1e-10)


def test_polynomials_are_orthogonal_on_the_disc() -> None:
    grid = torch.linspace(-1, 1, 401, dtype=torch.float64)
    xy = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1)
    inside = (xy**2).sum(-1) <= 1
    basis = torch.stack([zernike(*even_zernike_index(i), xy)[inside] for i in range(9)])
    gram = basis @ basis.T / inside.sum()
    off = gram - torch.diag(gram.diagonal())
    assert off.abs().max() < 0.01 * gram.diagonal().min()


def test_even_terms_are_even_and_odd_terms_are_odd() -> None:
    frequency = torch.randn(20, 2, dtype=torch.float64)
    even = even_zernike_phase([0.1, 0.2, -0.3, 0.4, 0.5, 0.6], frequency)
    odd = odd_zernike_phase([0.1, 0.2, -0.3, 0.4, 0.5, 0.6], frequency)
    torch.testing.assert_close(even_zernike_phase([0.1, 0.2, -0.3, 0.4, 0.5, 0.6], -frequency), even)
    torch.testing.assert_close(odd_zernike_phase([0.1, 0.2, -0.3, 0.4, 0.5, 0.6], -frequency), -odd)
    assert even.abs().min() > 0
    assert odd.abs().min() > 0


def test_beam_tilt_is_coma_and_equals_relions_zernike_form() -> None:
    cs_mm, voltage_kV, tilt = 2.7, 300.0, (1.3, -0.4)
    frequency = frequencies_per_A(HalfPlane(32, 15).kxy, 1.1, 32)
    wavelength_A = float(electron_wavelength_A(torch.tensor(voltage_kV, dtype=torch.float64)))
    loops = [
        -2 * math.pi * (cs_mm * 1e7) * wavelength_A**2 * (kx * kx + ky * ky) * (kx * tilt[0] + ky * tilt[1]) * 1e-3
        for kx, ky in frequency.tolist()
    ]
    found = beam_tilt_phase(tilt, cs_mm, voltage_kV, frequency)
    np.testing.assert_allclose(found.numpy(), loops, rtol=1e-12)
    third = [-cs_mm * 20000 * wavelength_A**2 * math.pi * t / 3 for t in tilt]
    as_zernike = odd_zernike_phase([2 * third[1], 2 * third[0], 0.0, third[1], third[0], 0.0], frequency)
    torch.testing.assert_close(found, as_zernike, rtol=1e-8, atol=1e-12)


def test_beam_tilt_replaces_the_coma_terms_of_the_list() -> None:
    frequency = frequencies_per_A(HalfPlane(16, 7).kxy, 1.5, 16)
    full = antisymmetric_phase(frequency, [1.0, 2.0, 3.0, 99.0, 98.0, 4.0, 5.0], (0.5, 0.1), 2.7, 300.0)
    without = odd_zernike_phase([1.0, 2.0, 3.0, 0.0, 0.0, 4.0, 5.0], frequency)
    torch.testing.assert_close(full, without + beam_tilt_phase((0.5, 0.1), 2.7, 300.0, frequency))
    torch.testing.assert_close(
        antisymmetric_phase(frequency, [0.0, 0.0, 0.0, 9.0]), odd_zernike_phase([0.0, 0.0, 0.0, 9.0], frequency)
    )


def test_frequencies_follow_the_magnification_matrix() -> None:
    matrix = torch.tensor([[1.02, 0.03], [-0.01, 0.98]])
    kxy = HalfPlane(16, 7).kxy
    found = frequencies_per_A(kxy, 1.5, 16, matrix)
    for row, (kx, ky) in zip(found, kxy.tolist(), strict=True):
        expected = matrix.double() @ torch.tensor([kx, ky], dtype=torch.float64) / (16 * 1.5)
        torch.testing.assert_close(row, expected)


def test_phase_factor_has_unit_modulus() -> None:
    phase = torch.linspace(-7, 7, 30, dtype=torch.float64)
    factor = phase_factor(phase)
    assert factor.dtype == torch.complex64
    np.testing.assert_allclose(factor.numpy(), np.exp(1j * phase.numpy()), atol=1e-6)


@pytest.mark.parametrize(("order", "degree"), [(1, 2), (3, 1), (-4, 2)])
def test_polynomials_that_do_not_exist_are_refused(order: int, degree: int) -> None:
    with pytest.raises(ValueError, match="no Zernike polynomial"):
        zernike(order, degree, torch.zeros(1, 2))

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import torch

from cryodrgn_ext.fourier.aberrations import even_zernike_phase, frequencies_per_A
from cryodrgn_ext.fourier.ctf import CtfParameters, ctf
from cryodrgn_ext.fourier.half_plane import HalfPlane

PLANE = HalfPlane(48, 23)


def _parameters(count: int, seed: int = 0, **fixed: float) -> CtfParameters:
    rng = np.random.default_rng(seed)
    drawn = {
        "defocus_u_A": rng.uniform(8e3, 3e4, count),
        "defocus_v_A": rng.uniform(8e3, 3e4, count),
        "defocus_angle_rad": rng.uniform(-4, 4, count),
        "voltage_kV": rng.choice([200.0, 300.0], count),
        "cs_mm": rng.uniform(0.01, 2.7, count),
        "amplitude_contrast": rng.uniform(0.05, 0.2, count),
        "phase_shift_rad": rng.uniform(0, 2, count),
        "b_factor_A2": rng.uniform(-20, 90, count),
        "scale": rng.uniform(0.5, 1.5, count),
    } | {name: np.full(count, value) for name, value in fixed.items()}
    return CtfParameters(**{name: torch.from_numpy(values) for name, values in drawn.items()})


def _plain(params: CtfParameters, i: int, k: complex, offset: float = 0.0) -> float:
    """The formula for one image at one frequency (x + iy, in 1/Å), with defocus as a cosine of twice the azimuth."""
    volts = float(params.voltage_kV[i]) * 1e3
    wavelength = 12.2643247 / math.sqrt(volts * (1 + volts * 0.978466e-6))
    mean = (float(params.defocus_u_A[i]) + float(params.defocus_v_A[i])) / 2
    deviation = (float(params.defocus_u_A[i]) - float(params.defocus_v_A[i])) / 2
    defocus = mean + deviation * math.cos(2 * (cmath.phase(k) - float(params.defocus_angle_rad[i])))
    k2 = abs(k) ** 2
    chi = math.pi * wavelength * defocus * k2 - math.pi / 2 * float(params.cs_mm[i]) * 1e7 * wavelength**3 * k2**2
    q0 = float(params.amplitude_contrast[i])
    phase = chi + float(params.phase_shift_rad[i]) + math.asin(q0) - offset
    return float(params.scale[i]) * math.exp(-float(params.b_factor_A2[i]) * k2 / 4) * math.sin(phase)


def test_agrees_with_the_formula_in_loops() -> None:
    params = _parameters(6)
    pixel_size_A = torch.tensor([1.0, 1.5, 2.0, 0.8, 3.0, 1.2])
    found = ctf(params, PLANE.kxy, pixel_size_A, 48, dtype=torch.float64)
    for i in range(6):
        edge = float(pixel_size_A[i]) * 48
        expected = [_plain(params, i, complex(kx, ky) / edge) for kx, ky in PLANE.kxy.tolist()]
        np.testing.assert_allclose(found[i].numpy(), expected, atol=1e-7)
    single = ctf(params, PLANE.kxy, pixel_size_A, 48)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), found, atol=2e-4, rtol=0)


def test_box_size_per_image_and_cropping_leaves_it_unchanged() -> None:
    params = _parameters(3)
    kxy = PLANE.kxy[:200]
    whole = ctf(params, kxy, torch.tensor([1.0, 1.5, 2.0]), torch.tensor([96, 48, 64]))
    cropped = ctf(params, kxy, torch.tensor([2.0, 3.0, 4.0]), torch.tensor([48, 24, 32]))
    torch.testing.assert_close(whole, cropped)


def test_starts_at_the_amplitude_contrast_and_rises_for_underfocus() -> None:
    params = _parameters(1, phase_shift_rad=0.0, b_factor_A2=0.0, scale=1.0, amplitude_contrast=0.07)
    values = ctf(params, torch.tensor([[0, 0], [1, 0]]), 2.0, 48)[0]
    assert values[0] == pytest.approx(0.07, rel=1e-5)
    assert values[1] > values[0]


def test_defocus_u_acts_along_the_defocus_angle() -> None:
    angle = 0.5
    params = _parameters(
        1, defocus_u_A=2e4, defocus_v_A=1e4, defocus_angle_rad=angle, voltage_kV=300.0, b_factor_A2=0.0, scale=1.0
    )
    along = 30.0 * torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    across = 30.0 * torch.tensor([[-math.sin(angle), math.cos(angle)]], dtype=torch.float64)

    def round_lens(defocus_A: float, k: torch.Tensor) -> torch.Tensor:
        values = {name: getattr(params, name) for name in params.__dataclass_fields__}
        values["defocus_u_A"] = values["defocus_v_A"] = torch.tensor([defocus_A], dtype=torch.float64)
        return ctf(CtfParameters(**values), k, 1.0, 200, dtype=torch.float64)

    torch.testing.assert_close(ctf(params, along, 1.0, 200, dtype=torch.float64), round_lens(2e4, along))
    torch.testing.assert_close(ctf(params, across, 1.0, 200, dtype=torch.float64), round_lens(1e4, across))


def test_a_phase_shift_of_pi_turns_the_contrast() -> None:
    plain = ctf(_parameters(2, phase_shift_rad=0.3), PLANE.kxy, 1.0, 48, dtype=torch.float64)
    turned = ctf(_parameters(2, phase_shift_rad=0.3 + math.pi), PLANE.kxy, 1.0, 48, dtype=torch.float64)
    torch.testing.assert_close(turned, -plain)


def test_full_amplitude_contrast_is_a_cosine() -> None:
    params = _parameters(1, amplitude_contrast=1.0, phase_shift_rad=0.0, b_factor_A2=0.0, scale=1.0)
    assert ctf(params, torch.tensor([[0, 0]]), 1.0, 48).item() == pytest.approx(1.0)


def test_even_zernike_terms_add_to_gamma() -> None:
    params = _parameters(2)
    frequency = frequencies_per_A(PLANE.kxy, 1.2, 48)
    offset = even_zernike_phase([0.2, 1.0, -2.0, 3.0, 10.0, -20.0, 5.0, 7.0, -3.0], frequency)
    found = ctf(params, PLANE.kxy, 1.2, 48, gamma_offset=offset, dtype=torch.float64)
    for i in range(2):
        expected = [_plain(params, i, complex(*k), float(o)) for k, o in zip(frequency.tolist(), offset, strict=True)]
        np.testing.assert_allclose(found[i].numpy(), expected, atol=1e-7)
    per_image = torch.stack([offset, 2 * offset])
    torch.testing.assert_close(
        ctf(params, PLANE.kxy, 1.2, 48, gamma_offset=per_image, dtype=torch.float64)[0], found[0]
    )


def test_magnification_matrix_acts_on_the_frequencies() -> None:
    params = _parameters(3)
    matrices = torch.tensor(
        [[[1.02, 0.01], [0.005, 0.98]], [[1.0, 0.0], [0.0, 1.0]], [[0.97, -0.02], [0.01, 1.03]]], dtype=torch.float64
    )
    found = ctf(params, PLANE.kxy, 1.3, 48, mag_matrix=matrices, dtype=torch.float64)
    for i in range(3):
        frequency = frequencies_per_A(PLANE.kxy, 1.3, 48, matrices[i])
        expected = [_plain(params, i, complex(*k)) for k in frequency.tolist()]
        np.testing.assert_allclose(found[i].numpy(), expected, atol=1e-7)
    shared = ctf(params, PLANE.kxy, 1.3, 48, mag_matrix=matrices[0], dtype=torch.float64)
    torch.testing.assert_close(shared[0], found[0])


def test_index_and_device() -> None:
    params = _parameters(5)
    some = params.index(torch.tensor([3, 1])).to("cpu")
    assert len(some) == 2
    whole = ctf(params, PLANE.kxy, 1.0, 48)
    torch.testing.assert_close(ctf(some, PLANE.kxy, 1.0, 48), whole[[3, 1]])


def test_inputs_are_left_alone() -> None:
    params = _parameters(2)
    before = {name: getattr(params, name).clone() for name in params.__dataclass_fields__}
    offset = torch.ones(PLANE.n_coefficients)
    ctf(params, PLANE.kxy, 1.0, 48, gamma_offset=offset, mag_matrix=torch.eye(2))
    assert all(torch.equal(getattr(params, name), value) for name, value in before.items())
    assert (offset == 1).all()


def test_parameters_of_different_lengths_are_refused() -> None:
    values = {name: getattr(_parameters(3), name) for name in CtfParameters.__dataclass_fields__}
    with pytest.raises(ValueError, match="same shape"):
        CtfParameters(**(values | {"scale": torch.ones(2)}))

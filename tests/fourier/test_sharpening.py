from __future__ import annotations

import numpy as np
import pytest
import torch

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.sharpening import apply_b_factor, guinier_b_factor
from tests.fourier.specimens import Blobs, blobs

D = 32


def test_agrees_with_the_full_transform() -> None:
    volume = torch.randn(D, D, D, generator=torch.Generator().manual_seed(0))
    k = np.fft.fftfreq(D, 1.5)
    k2 = k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None, :] ** 2
    expected = np.fft.ifftn(np.fft.fftn(volume.double().numpy()) * np.exp(-60.0 * k2 / 4)).real
    np.testing.assert_allclose(apply_b_factor(volume, 60.0, 1.5).numpy(), expected, atol=1e-5)


def test_sharpening_inverts_a_blur() -> None:
    volume = blobs(0, spread_px=3.0).density(D).float()
    blurred = apply_b_factor(volume, 80.0, 2.0)
    assert (blurred - volume).abs().max() > 0.1
    torch.testing.assert_close(apply_b_factor(blurred, -80.0, 2.0), volume, atol=1e-4, rtol=0)


def test_blur_widens_a_gaussian_as_a_debye_waller_factor_does() -> None:
    pixel_size_A, b_A2, width_px = 2.0, 100.0, 1.5
    spot = Blobs(np.zeros((1, 3)), np.array([width_px]), np.ones(1))
    found = apply_b_factor(spot.density(D).float(), b_A2, pixel_size_A)
    wide = np.sqrt(width_px**2 + b_A2 / (8 * np.pi**2) / pixel_size_A**2)  # B = 8 pi^2 <u^2>
    expected = Blobs(np.zeros((1, 3)), np.array([wide]), np.array([(width_px / wide) ** 3])).density(D)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("b_A2", [-40.0, 0.0, 120.0])
def test_guinier_finds_the_b_factor_that_was_applied(b_A2: float) -> None:
    white = torch.randn(64, 64, 64, generator=torch.Generator().manual_seed(1))  # flat amplitudes
    estimate = guinier_b_factor(apply_b_factor(white, b_A2, 1.5), 1.5, low_res_A=10.0)
    assert estimate == pytest.approx(b_A2, abs=2.0)


def test_guinier_range_is_honoured() -> None:
    white = torch.randn(64, 64, 64, generator=torch.Generator().manual_seed(2))
    volume = apply_b_factor(white, 100.0, 1.5)
    assert guinier_b_factor(volume, 1.5, 12.0, 5.0) == pytest.approx(100.0, abs=4.0)
    with pytest.raises(InputError, match=r"covers [012] shells"):
        guinier_b_factor(volume, 1.5, 10.0, 9.5)

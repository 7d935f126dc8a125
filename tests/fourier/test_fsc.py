from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cryodrgn_ext.fourier.fsc import corrected_fsc, fsc, phase_randomised, resolution_A
from cryodrgn_ext.fourier.masks import spherical_mask
from cryodrgn_ext.fourier.shells import apply_radial_weights
from tests.fourier.specimens import blobs

D = 32


def _noise(seed: int, d: int = D) -> torch.Tensor:
    return torch.randn(d, d, d, generator=torch.Generator().manual_seed(seed))


def test_agrees_with_loops_over_the_full_transform() -> None:
    d = 8
    a, b = _noise(0, d), _noise(0, d) + 0.7 * _noise(1, d)
    fa, fb = np.fft.fftn(a.double().numpy()), np.fft.fftn(b.double().numpy())
    sums = np.zeros((3, d))
    k = np.fft.fftfreq(d, 1 / d)
    for i in range(d):
        for j in range(d):
            for l in range(d):  # noqa: E741
                shell = round(math.sqrt(k[i] ** 2 + k[j] ** 2 + k[l] ** 2))
                pair = fa[i, j, l], fb[i, j, l]
                sums[:, shell] += (pair[0] * pair[1].conjugate()).real, abs(pair[0]) ** 2, abs(pair[1]) ** 2
    expected = (sums[0] / np.sqrt(sums[1] * sums[2]))[: d // 2 + 1]
    np.testing.assert_allclose(fsc(a, b), expected, rtol=1e-10)


def test_a_map_correlates_with_itself_and_not_with_noise() -> None:
    a = _noise(2)
    np.testing.assert_allclose(fsc(a, a.clone()), 1.0, atol=1e-12)
    np.testing.assert_allclose(fsc(a, -3.0 * a), -1.0, atol=1e-12)
    assert np.abs(fsc(a, _noise(3))[4:]).max() < 0.15


def test_signal_to_noise_gives_the_expected_correlation() -> None:
    signal, snr = _noise(4, 64), 2.0
    noisy = [signal + _noise(s, 64) / math.sqrt(snr) for s in (5, 6)]
    np.testing.assert_allclose(fsc(*noisy)[8:], snr / (snr + 1), atol=0.05)


def test_scale_and_mask() -> None:
    a, b, mask = _noise(7), _noise(7) + _noise(8), spherical_mask(D, 8, 4)
    np.testing.assert_allclose(fsc(a, 5.0 * b, mask), fsc(a * mask, b * mask), atol=1e-6)


def test_shells_without_power_are_zero() -> None:
    assert (fsc(torch.zeros(D, D, D), _noise(9)) == 0).all()


def test_resolution_interpolates_between_shells() -> None:
    curve = np.array([1.0, 0.9, 0.5, 0.1, 0.3])
    assert resolution_A(curve, 2.0, 8, threshold=0.3) == pytest.approx(16 / 2.5)
    assert resolution_A(curve, 2.0, 8, threshold=0.143) == pytest.approx(16 / (2 + 0.357 / 0.4))
    assert resolution_A(np.ones(5), 2.0, 8) == pytest.approx(16 / 4)  # Nyquist
    assert resolution_A(np.array([0.2, -1.0, 0.0]), 2.0, 8, threshold=0.5) == pytest.approx(16 / 0.25)


def test_random_phases_keep_amplitudes_and_the_low_band() -> None:
    a = blobs(0, spread_px=3.0).density(D).float()
    shuffled = phase_randomised(a, 6, seed=1)
    assert shuffled.dtype == a.dtype
    fa, fs = torch.fft.rfftn(a), torch.fft.rfftn(shuffled)
    torch.testing.assert_close(fa.abs(), fs.abs(), rtol=1e-3, atol=1e-3)
    curve = fsc(a, shuffled)
    np.testing.assert_allclose(curve[:6], 1.0, atol=1e-6)
    assert np.abs(curve[8:]).max() < 0.5
    assert not torch.equal(shuffled, phase_randomised(a, 6, seed=2))
    torch.testing.assert_close(shuffled, phase_randomised(a, 6, seed=1))


def test_correction_removes_the_correlation_of_a_tight_mask() -> None:
    signal = blobs(1, spread_px=3.0).density(D).float()
    signal = 10.0 * apply_radial_weights(signal, (torch.arange(D // 2 + 1) < 5).float())  # nothing beyond shell 6
    first, second = (signal + 0.3 * _noise(s) for s in (10, 11))
    mask = spherical_mask(D, 7, 0)  # its sharp edge carries the signal to all shells of both maps
    masked, corrected = fsc(first, second, mask), corrected_fsc(first, second, mask)
    assert masked[10:].mean() > 0.3
    assert abs(corrected[10:].mean()) < 0.1
    assert corrected[3] > 0.95
    np.testing.assert_array_equal(corrected_fsc(signal, signal.clone(), mask), fsc(signal, signal.clone(), mask))


def test_maps_of_different_boxes_are_refused() -> None:
    with pytest.raises(ValueError, match="second map"):
        fsc(_noise(0), _noise(0, 16))
    with pytest.raises(ValueError, match="mask"):
        fsc(_noise(0), _noise(1), torch.ones(16, 16, 16))
    with pytest.raises(ValueError, match="two shells"):
        resolution_A(np.ones(1), 1.0, 8)

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.fourier.shells import (
    apply_radial_weights,
    half_volume_multiplicity,
    half_volume_norm,
    shell_mean,
    shell_power,
    shell_products,
    shell_sum,
)


def test_norm_and_multiplicity_of_the_half_volume() -> None:
    d = 8
    norm = half_volume_norm(d)
    for iz, kz in enumerate(np.fft.fftfreq(d, 1 / d)):
        for iy, ky in enumerate(np.fft.fftfreq(d, 1 / d)):
            for kx in range(d // 2 + 1):
                assert float(norm[iz, iy, kx]) == pytest.approx(np.sqrt(kz**2 + ky**2 + kx**2), rel=1e-6)
    volume = torch.randn(d, d, d, dtype=torch.float64)
    power = (torch.fft.rfftn(volume).abs() ** 2 * half_volume_multiplicity(d)).sum()
    torch.testing.assert_close(power, d**3 * (volume**2).sum())


def test_sums_and_means_agree_with_loops() -> None:
    rng = np.random.default_rng(0)
    values, shell, weight = rng.normal(size=(2, 50)), rng.integers(0, 7, 50), rng.uniform(1, 2, 50)
    sums = shell_sum(torch.from_numpy(values), torch.from_numpy(shell), 5)
    means = shell_mean(torch.from_numpy(values), torch.from_numpy(shell), 5, torch.from_numpy(weight))
    for row in range(2):
        for s in range(5):
            chosen = [i for i in range(50) if shell[i] == s]
            assert float(sums[row, s]) == pytest.approx(sum(values[row, i] for i in chosen))
            expected = sum(values[row, i] * weight[i] for i in chosen) / sum(weight[i] for i in chosen)
            assert float(means[row, s]) == pytest.approx(expected)
    assert shell_mean(torch.ones(2), torch.tensor([0, 2]), 3).tolist() == [1.0, 0.0, 1.0]


def test_white_noise_has_flat_power() -> None:
    d = 64
    plane = HalfPlane(d, 31)
    images = 3.0 * torch.randn(40, d, d, generator=torch.Generator().manual_seed(0))
    power = shell_power(plane.from_images(images), plane.shell, 32, plane.multiplicity).mean(0)
    np.testing.assert_allclose(power[8:] / (9.0 * d**2), 1.0, atol=0.1)


def test_radial_weights_interpolate_and_hold_in_the_corners() -> None:
    d = 16
    volume = torch.randn(d, d, d, generator=torch.Generator().manual_seed(1))
    weights = torch.linspace(1.0, 0.2, d // 2 + 1) ** 2
    found = apply_radial_weights(volume, weights)
    spectrum = np.fft.fftn(volume.numpy())
    k = np.fft.fftfreq(d, 1 / d)
    norm = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None, :] ** 2)
    spectrum *= np.interp(norm, np.arange(d // 2 + 1), weights.numpy())
    np.testing.assert_allclose(found.numpy(), np.fft.ifftn(spectrum).real, atol=1e-5)
    with pytest.raises(ValueError, match="radial weights expected"):
        apply_radial_weights(volume, weights[:-1])


def test_products_are_power_where_maps_agree_and_nothing_where_they_do_not() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(24, 24, 24, generator=g), torch.randn(24, 24, 24, generator=g)
    k = np.fft.fftfreq(24, 1 / 24)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None, :] ** 2)).astype(int)
    products = (np.fft.fftn(a.numpy()) * np.fft.fftn(b.numpy()).conj()).real
    expected = [products[shell == number].mean() for number in range(13)]
    np.testing.assert_allclose(shell_products(a, b).numpy(), expected, rtol=1e-3, atol=1e-2 * 24**3)
    np.testing.assert_allclose(shell_products(a, a).numpy()[4:], 24**3, rtol=0.1)
    assert np.abs(shell_products(a, b).numpy()[4:]).max() < 0.1 * 24**3

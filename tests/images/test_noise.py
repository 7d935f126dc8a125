"""Noise power per shell: unbiased on white and steeply coloured noise, with a particle in the middle."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.images.background import BackgroundSurface
from cryodrgn_ext.images.geometry import crop_index, crop_transform
from cryodrgn_ext.images.noise import NoiseEstimator
from cryodrgn_ext.images.preprocessing import PreprocessSettings, image_window, outside_circle

BOX = 48


@cache
def coloured_noise(n: int, exponent: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Stationary noise cut out of larger fields (so that it does not wrap around), and its power density at |k|."""
    g = torch.Generator().manual_seed(seed)
    big = 3 * BOX
    k = torch.fft.fftfreq(big, 1 / big, dtype=torch.float64)
    radius = torch.sqrt(k[:, None] ** 2 + k[None, : big // 2 + 1].abs() ** 2) * BOX / big  # cycles per BOX

    def density(r: Tensor) -> Tensor:
        return (1.0 + (r / 4.0) ** 2) ** (-exponent)

    fields = torch.randn(n, big, big, generator=g, dtype=torch.float64)
    fields = torch.fft.irfft2(torch.fft.rfft2(fields) * density(radius).sqrt(), s=(big, big))
    return fields[:, :BOX, :BOX].float(), density(torch.arange(BOX // 2 + 1).double()) * BOX**2


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("windowed", [False, True])
def test_whitened_coefficients_have_the_power_of_the_window_in_every_shell(exponent: float, windowed: bool) -> None:
    noise, _ = coloured_noise(500, exponent)
    window = image_window(PreprocessSettings(window=windowed), BOX, 1.0)
    background = BackgroundSurface.make(BOX, 0.375 * BOX)
    estimator = NoiseEstimator(BOX, 0.375 * BOX, window, background.basis)
    estimator.add(background.level(noise).normalised())
    sigma = estimator.shell_power().sqrt().float()
    plane = HalfPlane(BOX, BOX // 2)
    index, sign = crop_index(plane, BOX)
    fresh, _ = coloured_noise(500, exponent, seed=1)
    fresh = background.level(fresh).normalised()
    power = crop_transform(fresh * window, index, sign / sigma[plane.shell]).abs().square().mean(0)
    # Steep noise is not of one power over the frequencies of the plane, in shell 1: it is in the next test.
    per_shell = torch.stack([power[plane.shell == s].mean() for s in range(2, BOX // 2 + 1)])
    assert (per_shell / window.square().mean() - 1).abs().max() < 0.12
    assert per_shell.mean() / window.square().mean() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("fitted", ["mean", "plane"])
def test_the_lowest_shell_knows_what_the_fit_of_the_background_took_and_brought(fitted: str) -> None:
    noise = torch.randn(4000, BOX, BOX, generator=torch.Generator().manual_seed(2))
    background = BackgroundSurface.make(BOX, 0.375 * BOX)
    window = image_window(PreprocessSettings(), BOX, 1.0)
    if fitted == "plane":
        images, functions = background.level(noise).images, background.basis
    else:
        images, functions = noise - noise[:, background.outside].mean(1)[:, None, None], background.basis[:1]
    estimator = NoiseEstimator(BOX, 0.375 * BOX, window, functions)
    estimator.add(images)
    power = torch.fft.fft2(images * window).abs().square().double().mean(0) / window.square().mean()
    lowest = torch.stack([power[0, 1], power[1, 0], power[1, 1], power[1, -1]]).mean()
    assert float(estimator.shell_power()[1] / lowest) == pytest.approx(1.0, abs=0.06)


def test_density_is_recovered_from_the_surroundings_alone() -> None:
    noise, density = coloured_noise(800, 1.0)
    particle = 30.0 * (~outside_circle(BOX, 0.3 * BOX)).float()
    estimator = NoiseEstimator(BOX, 0.375 * BOX, torch.ones(BOX, BOX))
    estimator.add(normalise_mean(noise) + particle)
    found = estimator.shell_power()
    # The box itself smears the spectrum a little: that is what its coefficients have.
    assert (found[3:] / density[3:] - 1).abs().max() < 0.2
    assert found[3:].sum() / density[3:].sum() == pytest.approx(1.0, abs=0.06)


def normalise_mean(images: Tensor) -> Tensor:
    background = outside_circle(BOX, 0.375 * BOX)
    return images - images[:, background].mean(1)[:, None, None]


def test_adding_in_parts_is_adding_at_once() -> None:
    noise, _ = coloured_noise(20, 0.5)
    parts, whole = (NoiseEstimator(BOX, 15, torch.ones(BOX, BOX)) for _ in range(2))
    whole.add(noise)
    parts.add(noise[:7])
    parts.add(noise[7:])
    assert torch.allclose(parts.shell_power(), whole.shell_power(), rtol=1e-5)
    assert parts.n_images == 20

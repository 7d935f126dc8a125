"""Residuals give the noise back that was put in, and re-whitening uses it."""

from __future__ import annotations

import pytest
import torch

from cryodrgn_ext.reconstruction.backprojection import backproject
from cryodrgn_ext.reconstruction.residual_noise import estimate_noise_from_residuals
from tests.reconstruction.specimens import BOX, density, images_of


def test_residuals_against_the_true_map_are_the_noise() -> None:
    images = images_of(density(), 300, noise=2.0)
    wrong = images.with_noise(images.noise_sigma * torch.linspace(0.5, 3.0, BOX // 2))
    found = estimate_noise_from_residuals(wrong, density())
    assert (found[0, 2:] / (2.0 * BOX) - 1).abs().max() < 0.05
    assert found[0, 0] / wrong.noise_sigma[0, 0] == pytest.approx(float(found[0, 1] / wrong.noise_sigma[0, 1]))


def test_rewhitened_images_say_the_same_about_the_map() -> None:
    images = images_of(density(), 200, noise=2.0)
    other = images.with_noise(2.0 * images.noise_sigma)
    a, b = images.batch(torch.arange(3)), other.batch(torch.arange(3))
    assert torch.allclose(b.coefficients, a.coefficients / 2, atol=1e-5)
    assert torch.allclose(b.ctf, a.ctf / 2, atol=1e-7)
    again = other.with_noise(images.noise_sigma).batch(torch.arange(3))
    assert torch.allclose(again.coefficients, a.coefficients, atol=1e-5)
    first, second = backproject(images).solve(), backproject(other).solve()
    assert torch.allclose(first, second, atol=1e-4 * float(first.abs().max()))

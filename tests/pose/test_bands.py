"""Bands follow the size of the particle, which the images tell."""

from __future__ import annotations

import pytest
import torch

from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.pose.bands import LEAST_SCALE, MOST_SCALE, USUAL_SPREAD, Bands, choose_bands, particle_spread


def discs(radius_px: float, noise: float, box: int = 64) -> ParticleImages:
    """Images of a disc in which density varies at random, and noise."""
    rng = torch.Generator().manual_seed(0)
    axis = torch.arange(box) - box // 2
    inside = (axis[:, None] ** 2 + axis**2 <= radius_px**2).float()
    coarse = torch.randn(300, 1, box // 4, box // 4, generator=rng)
    pictures = torch.nn.functional.interpolate(coarse, size=(box, box), mode="bilinear")[:, 0] * inside
    pictures = pictures + noise * torch.randn(pictures.shape, generator=rng)
    return ParticleImages.from_tensors(
        pictures, torch.eye(3).expand(300, 3, 3), torch.zeros(300, 2), 4.0, pixel_noise_sd=max(noise, 0.01)
    )


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("radius_px", [8.0, 14.0, 20.0])
def test_spread_is_the_radius_of_half_the_variance(radius_px: float, noise: float) -> None:
    found = particle_spread(discs(radius_px, noise))
    assert abs(found - radius_px / 2**0.5) < 1.5


def test_bands_grow_as_particles_shrink() -> None:
    small, large = choose_bands(discs(7.0, 0.5)), choose_bands(discs(20.0, 0.5))
    assert small.scale > 1.6 > 1.0 > large.scale
    assert small.start > large.start
    assert small.random_first < small.random_last < small.base < small.start_search < small.start
    assert choose_bands(discs(3.0, 0.5)).scale == MOST_SCALE
    assert choose_bands(discs(0.0, 1.0)).scale >= LEAST_SCALE  # nothing but noise: an answer all the same
    assert pytest.approx(0.16) == USUAL_SPREAD


def test_no_band_is_beyond_the_images() -> None:
    assert Bands(2.0, 9.0).start == 9.0
    assert Bands(2.0, 9.0).random_first == 8.0

"""A mask on the images that is smaller than the particle is told from one that is not, in spite of noise."""

from __future__ import annotations

import numpy as np
import pytest

from cryodrgn_ext.reconstruction.half_maps import HalfMaps
from cryodrgn_ext.validation.consensus import cut_by_mask

BOX, PIXEL_A, RADIUS_PX = 32, 4.0, 8.0


def halves(noise: float, signal: float = 1.0) -> HalfMaps:
    """A ball of radius :data:`RADIUS_PX`, twice, with noise of its own each time."""
    axis = np.arange(BOX) - BOX // 2
    ball = signal * (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 <= RADIUS_PX**2).astype(np.float32)
    rng = np.random.default_rng(0)
    one, other = (ball + noise * rng.standard_normal(ball.shape).astype(np.float32) for _ in range(2))
    return HalfMaps(one, other, np.asarray((one + other) / 2, np.float32), np.zeros(BOX // 2 + 1), 10.0, PIXEL_A)


@pytest.mark.parametrize("noise", [0.01, 0.5])
def test_a_mask_within_the_particle_is_warned_of(noise: float) -> None:
    sentence = cut_by_mask(halves(noise), 1.4 * RADIUS_PX * PIXEL_A)
    assert sentence is not None
    assert "--mask_diameter_A" in sentence
    assert "6" in sentence.split("%")[0]  # 1 - 0.7^3 = 66 % lie outside


@pytest.mark.parametrize("noise", [0.01, 0.5])
def test_a_mask_around_the_particle_is_not(noise: float) -> None:
    assert cut_by_mask(halves(noise), 2.2 * RADIUS_PX * PIXEL_A) is None


def test_noise_alone_tells_nothing() -> None:
    assert cut_by_mask(halves(1.0, signal=0.0), RADIUS_PX * PIXEL_A) is None

"""Images without a particle: found by what they show of the consensus, and not where single images do not tell."""

from __future__ import annotations

import numpy as np
import pytest

from cryodrgn_ext.images.particle_scale import probability_of_nothing, relative_spread
from cryodrgn_ext.validation.empty_images import BELIEVED


def scales(n: int, share: float, spread: float, error: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scales of images and which of them are empty."""
    rng = np.random.default_rng(seed)
    empty = rng.random(n) < share
    true = np.where(empty, 0.0, 1.2 + spread * rng.uniform(-1, 1, n))
    return true + error * rng.normal(size=n), empty


@pytest.mark.parametrize("share", [0.005, 0.2, 0.6])
@pytest.mark.parametrize("error", [0.03, 0.15])
def test_empty_images_are_found(share: float, error: float) -> None:
    scale, empty = scales(4000, share, 0.3, error)
    found = probability_of_nothing(scale, np.full(4000, error)) > BELIEVED
    assert (found & ~empty).sum() <= 0.002 * 4000
    assert (found & empty).sum() >= 0.9 * empty.sum()


@pytest.mark.parametrize("spread", [0.05, 0.3, 0.6])
@pytest.mark.parametrize("error", [0.03, 0.15, 0.25])
def test_weak_particles_are_not_called_empty(spread: float, error: float) -> None:
    scale, _ = scales(4000, 0.0, spread, error)
    assert (probability_of_nothing(scale, np.full(4000, error)) > BELIEVED).sum() <= 4


def test_nothing_is_said_where_single_images_do_not_tell() -> None:
    scale, _ = scales(4000, 0.3, 0.2, 0.6)
    assert not probability_of_nothing(scale, np.full(4000, 0.6)).any()
    noise = np.random.default_rng(1).normal(size=500)
    assert not probability_of_nothing(noise, np.ones(500)).any()


@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_the_error_of_the_spread_is_that_of_repetitions(spread: float) -> None:
    errors = np.random.default_rng(2).uniform(0.05, 0.5, 500)  # images are not equally good
    found = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        scale = 1.2 * (1 + spread * rng.normal(size=500)) + errors * rng.normal(size=500)
        found.append(relative_spread(scale, errors, np.zeros(500)))
    variances = np.array([one.variance for one in found])
    assert np.mean([one.error for one in found]) == pytest.approx(variances.std(), rel=0.3)
    assert abs(variances.mean() - spread**2) < 3 * variances.std() / 10


def test_no_spread_is_said_of_nothing() -> None:
    noise = np.random.default_rng(1).normal(size=500) - 1
    assert relative_spread(noise, np.ones(500), np.zeros(500)).deviation == 0
    assert relative_spread(np.zeros(0), np.zeros(0), np.zeros(0)).deviation == 0


@pytest.mark.parametrize("spread", [0.0, 0.2, 0.6])
@pytest.mark.parametrize("share", [0.0, 0.2])
def test_the_spread_of_scales_is_that_of_particles_without_noise(spread: float, share: float) -> None:
    scale, _ = scales(4000, share, spread, 0.15)
    error = np.full(4000, 0.15)
    found = relative_spread(scale, error, probability_of_nothing(scale, error))
    assert found.deviation == pytest.approx(spread / 3**0.5 / 1.2, abs=0.04)

"""Memberships of single images: chances are kept where nothing is there, and few images of a rare state are seen."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.stats import norm

from cryodrgn_ext.validation.single_images import LEVELS, SingleImages, correlation_of, membership

N_IMAGES = 2000


def _chance(first: NDArray[np.float64], second: NDArray[np.float64], share: float) -> float:
    correlation, skewness = correlation_of(membership(first, share), membership(second, share))
    levels = (correlation,) * len(LEVELS)
    return SingleImages(correlation, levels, len(first) ** -0.5, skewness=skewness).p


@pytest.mark.parametrize("share", [0.003, 0.03, 0.5])
def test_false_alarms_are_as_rare_as_they_are_said_to_be(share: float) -> None:
    rng = np.random.default_rng(1)
    repeats, level = 1500, 0.01
    chances = np.array([_chance(rng.normal(size=N_IMAGES), rng.normal(size=N_IMAGES), share) for _ in range(repeats)])
    # Five standard errors of a binomial share.
    assert abs(np.mean(chances < level) - level) < 5 * np.sqrt(level / repeats)
    assert abs(np.mean(chances < 0.1) - 0.1) < 5 * np.sqrt(0.1 / repeats)


def _two_looks(rng: Generator, members: int, strength: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Strengths in two disjoint sets of coefficients, where the first images show the state."""
    shown = strength * (np.arange(N_IMAGES) < members)
    return shown + rng.normal(size=N_IMAGES), shown + rng.normal(size=N_IMAGES)


def test_few_images_that_show_a_state_well_are_seen_where_strengths_hardly_correlate() -> None:
    rng = np.random.default_rng(2)
    members = 60
    seen, seen_by_strength = 0, 0
    for _ in range(50):
        looks = _two_looks(rng, members, 1.5)
        seen += _chance(looks[0], looks[1], members / N_IMAGES) < 0.003
        seen_by_strength += norm.sf(np.corrcoef(*looks)[0, 1] * np.sqrt(N_IMAGES)) < 0.003
    assert seen >= 40
    assert seen_by_strength <= 35


def test_a_state_of_half_of_the_images_is_seen_as_well_as_by_strength() -> None:
    rng = np.random.default_rng(3)
    gain = []
    for _ in range(50):
        looks = _two_looks(rng, N_IMAGES // 2, 0.5)
        by_membership = correlation_of(membership(looks[0], 0.5), membership(looks[1], 0.5))[0]
        gain.append(by_membership / np.corrcoef(*looks)[0, 1])
    assert np.mean(gain) > 0.95


def test_images_that_all_look_the_same_belong_to_the_state_as_often_as_any() -> None:
    np.testing.assert_allclose(membership(np.ones(5), 0.2), 0.2)


def test_what_all_images_have_alike_correlates_with_nothing() -> None:
    """Memberships of images that tell nothing are equal but for the last digit."""
    rng = np.random.default_rng(0)
    alike = np.full(300, 0.2) + 1e-16 * rng.integers(-1, 2, size=300)
    assert correlation_of(alike, alike) == (0.0, 0.0)
    assert correlation_of(alike, rng.normal(size=300)) == (0.0, 0.0)

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from scipy.stats import ttest_ind

from cryodrgn_ext.validation.differences import Products
from cryodrgn_ext.validation.evidence import Evidence, RandomSubsets, Verdict, judge
from cryodrgn_ext.validation.single_images import LEVELS, SingleImages

NULL = np.random.default_rng(0).normal(0.02, 0.05, 12)


def seen(value: float, error: float) -> SingleImages:
    """Single images that show a difference alike, whatever it is taken outside of."""
    return SingleImages(value, (value,) * len(LEVELS), error)


def verdict_on(
    strength: float, null: Iterable[float], single_images: float, single_images_error: float, n_states: int
) -> Evidence:
    """Judge maps of unit noise that have these inner products, a hundred particles each."""
    random = RandomSubsets()
    for one in null:
        random.add(Products(one, 1.0, 1.0), 100, 100)
    return judge(Products(strength, 1.0, 1.0), (100, 100), random, seen(single_images, single_images_error), n_states)


def test_both_measures_are_needed() -> None:
    assert verdict_on(0.9, NULL, 0.5, 0.02, 4).verdict is Verdict.DISTINCT
    assert verdict_on(0.9, NULL, 0.01, 0.02, 4).verdict is Verdict.NOT_DISTINGUISHABLE
    assert verdict_on(0.03, NULL, 0.5, 0.02, 4).verdict is Verdict.NOT_DISTINGUISHABLE


def test_significance_is_shared_among_the_states() -> None:
    value = 0.02 + 3.7 * NULL.std(ddof=1)
    assert verdict_on(value, NULL, 0.5, 0.02, 1).verdict is Verdict.DISTINCT
    assert verdict_on(value, NULL, 0.5, 0.02, 100).verdict is Verdict.NOT_DISTINGUISHABLE


def test_p_value_is_that_of_a_two_sample_t_test_with_one_value() -> None:
    assert verdict_on(0.1, NULL, 0.5, 0.02, 1).halves_p == pytest.approx(
        ttest_ind([0.1], NULL, alternative="greater").pvalue
    )


def test_false_alarms_are_as_rare_as_promised() -> None:
    rng = np.random.default_rng(1)
    p_values = [verdict_on(rng.normal(), rng.normal(size=12), 0.5, 0.02, 1).halves_p for _ in range(2000)]
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.015)


def noise_products(rng: np.random.Generator, signal: np.ndarray, n1: int, n2: int) -> Products:
    """Products of two difference maps of a set, whose noise falls with the number of its particles."""
    first, second = (signal + rng.normal(size=len(signal)) / np.sqrt(n) for n in (n1, n2))
    return Products(float(first @ second), float(first @ first), float(second @ second))


def test_a_wide_null_hides_no_strong_difference() -> None:
    """With few independent voxels random subsets correlate at random up to 1, and a correlation could prove nothing."""
    rng, nothing = np.random.default_rng(2), np.zeros(6)
    random = RandomSubsets()
    for _ in range(12):
        random.add(noise_products(rng, nothing, 100, 130), 100, 130)
    assert random.correlations.std() > 0.3
    found = judge(noise_products(rng, np.full(6, 1.0), 100, 130), (100, 130), random, seen(0.5, 0.02), 4)
    assert found.halves < 1.0
    assert found.verdict is Verdict.DISTINCT


def test_strength_is_measured_in_the_noise_of_sets_of_the_same_size() -> None:
    rng, nothing = np.random.default_rng(3), np.zeros(500)
    random = RandomSubsets()
    for _ in range(200):
        random.add(noise_products(rng, nothing, 1000, 900), 1000, 900)
    small = [random.strength(noise_products(rng, nothing, 20, 25), 20, 25) for _ in range(200)]
    assert np.std(small) == pytest.approx(random.strengths.std(), rel=0.2)
    assert np.std(small) == pytest.approx(500**-0.5, rel=0.2)

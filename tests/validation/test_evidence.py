from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_ind

from cryodrgn_ext.validation.evidence import Verdict, judge

NULL = np.random.default_rng(0).normal(0.02, 0.05, 12)


def test_both_measures_are_needed() -> None:
    assert judge(0.9, NULL, 0.5, 0.02, 4).verdict is Verdict.DISTINCT
    assert judge(0.9, NULL, 0.01, 0.02, 4).verdict is Verdict.NOT_DISTINGUISHABLE
    assert judge(0.03, NULL, 0.5, 0.02, 4).verdict is Verdict.NOT_DISTINGUISHABLE


def test_significance_is_shared_among_the_states() -> None:
    value = 0.02 + 3.7 * NULL.std(ddof=1)
    assert judge(value, NULL, 0.5, 0.02, 1).verdict is Verdict.DISTINCT
    assert judge(value, NULL, 0.5, 0.02, 100).verdict is Verdict.NOT_DISTINGUISHABLE


def test_p_value_is_that_of_a_two_sample_t_test_with_one_value() -> None:
    assert judge(0.1, NULL, 0.5, 0.02, 1).halves_p == pytest.approx(
        ttest_ind([0.1], NULL, alternative="greater").pvalue
    )


def test_false_alarms_are_as_rare_as_promised() -> None:
    rng = np.random.default_rng(1)
    p_values = [judge(rng.normal(), rng.normal(size=12), 0.5, 0.02, 1).halves_p for _ in range(2000)]
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.015)

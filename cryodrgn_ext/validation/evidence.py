"""The verdict on a state: two measures of it against the same measures of random subsets of equal size."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

SIGNIFICANCE = 0.01  # chance of any false "distinct" among all states of a job


class Verdict(Enum):
    """What the comparison with random subsets says about a state."""

    DISTINCT = "distinct"
    NOT_DISTINGUISHABLE = "not distinguishable"
    NOT_TESTED = "not tested"


@dataclass(frozen=True)
class Measure:
    """A measure of a state, and of random subsets.

    Attributes
    ----------
    value : float
    null : ndarray
        (m,) of random subsets.
    """

    value: float
    null: NDArray[np.float64]

    @property
    def p_value(self) -> float:
        """Chance that one more random subset reaches the value (one-sided t-test of one value against a sample)."""
        m = len(self.null)
        spread = self.null.std(ddof=1) * np.sqrt(1 + 1 / m)
        return float(student.sf((self.value - self.null.mean()) / max(spread, 1e-12), m - 1))

    def words(self) -> str:
        """The value, with mean and standard deviation of random subsets."""
        return f"{self.value:.2f} (random subsets {self.null.mean():.2f} ± {self.null.std(ddof=1):.2f})"


@dataclass(frozen=True)
class Evidence:
    """Comparison of one state with random subsets.

    Attributes
    ----------
    verdict : Verdict
        Distinct when both measures are beyond those of random subsets.
    halves : Measure or None
        Correlation of the two halves' difference maps to the consensus, inside the mask.
    images : Measure or None
        Correlation over single images of the strength of the difference, between disjoint sets of coefficients.
    reason : str
        Why it was not tested.
    """

    verdict: Verdict
    halves: Measure | None = None
    images: Measure | None = None
    reason: str = ""

    def sentence(self) -> str:
        """The evidence in one line for tables and reports."""
        if self.halves is None or self.images is None:
            return f"{self.verdict.value}: {self.reason}"
        return (
            f"{self.verdict.value}: difference from the consensus correlates {self.halves.words()} between half-maps "
            f"and {self.images.words()} within single images"
        )


def judge(halves: Measure, images: Measure, n_states: int) -> Evidence:
    """Verdict on a state, at a significance of 0.01 divided by the number of states ``n_states`` judged in all."""
    distinct = max(halves.p_value, images.p_value) < SIGNIFICANCE / n_states
    return Evidence(Verdict.DISTINCT if distinct else Verdict.NOT_DISTINGUISHABLE, halves, images)


def not_tested(reason: str) -> Evidence:
    """Evidence of a state that cannot be compared."""
    return Evidence(Verdict.NOT_TESTED, reason=reason)

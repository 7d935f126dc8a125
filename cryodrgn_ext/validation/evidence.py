"""The verdict on a state: its agreement between halves against that of random subsets of equal size."""

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
class Evidence:
    """Comparison of one state with random subsets.

    Attributes
    ----------
    verdict : Verdict
    correlation : float
        Of the two halves' difference maps to the consensus, inside the mask; nan when not tested.
    null : ndarray
        (m,) the same of random subsets with the sizes of the states.
    p_value : float
        Chance that one more random subset correlates as well; nan when not tested.
    reason : str
        Why it was not tested.
    """

    verdict: Verdict
    correlation: float
    null: NDArray[np.float64]
    p_value: float
    reason: str = ""

    def sentence(self) -> str:
        """The evidence in one line for tables and reports."""
        if self.verdict is Verdict.NOT_TESTED:
            return f"not tested: {self.reason}"
        chance = f"random subsets {self.null.mean():.2f} ± {self.null.std(ddof=1):.2f}"
        agreement = f"its difference from the consensus correlates {self.correlation:.2f} between halves, {chance}"
        return f"{self.verdict.value}: {agreement}"


def judge(correlation: float, null: NDArray[np.float64], n_states: int) -> Evidence:
    """Verdict from the correlation of a state and those of random subsets.

    A t-test of one new value against the sample ``null``, one-sided, at 0.01 divided by the number of states.

    Parameters
    ----------
    correlation : float
    null : ndarray
        (m,) at least two values.
    n_states : int
        How many states are judged in all.
    """
    m = len(null)
    spread = null.std(ddof=1) * np.sqrt(1 + 1 / m)
    p_value = float(student.sf((correlation - null.mean()) / max(spread, 1e-12), m - 1))
    distinct = p_value < SIGNIFICANCE / n_states
    return Evidence(Verdict.DISTINCT if distinct else Verdict.NOT_DISTINGUISHABLE, correlation, null, p_value)


def not_tested(reason: str) -> Evidence:
    """Evidence of a state that cannot be compared."""
    return Evidence(Verdict.NOT_TESTED, np.nan, np.empty(0), np.nan, reason)

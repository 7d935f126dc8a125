"""The verdict on a state: against random subsets of equal size, and by single images."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student

SIGNIFICANCE = 0.01  # chance of any false "distinct" among all states of a job


class Verdict(Enum):
    """What the comparison with random subsets says about a state."""

    DISTINCT = "distinct"
    NOT_DISTINGUISHABLE = "not distinguishable"
    NOT_TESTED = "not tested"


@dataclass(frozen=True)
class Evidence:
    """What speaks for a state. Values are nan when it was not tested.

    Attributes
    ----------
    verdict : Verdict
        Distinct when both correlations are significant.
    halves : float
        Correlation of the two halves' difference maps to the consensus, inside the mask.
    null_halves : ndarray
        (m,) the same of random subsets with the sizes of the states.
    halves_p : float
        Chance that one more random subset correlates as well (one-sided t-test of one value against a sample).
    single_images : float
        Correlation over single images of the strength of the difference, between disjoint sets of coefficients.
    single_images_error : float
        Its standard error where there is no heterogeneity.
    single_images_p : float
        Chance of this value where there is no heterogeneity.
    reason : str
        Why it was not tested.
    """

    verdict: Verdict
    halves: float
    null_halves: NDArray[np.float64]
    halves_p: float
    single_images: float
    single_images_error: float
    single_images_p: float
    reason: str = ""

    def sentence(self) -> str:
        """The evidence in one line for tables and reports."""
        if self.verdict is Verdict.NOT_TESTED:
            return f"{self.verdict.value}: {self.reason}"
        return (
            f"{self.verdict.value}: its difference from the consensus correlates {self.halves:.2f} between half-maps "
            f"(random subsets {self.null_halves.mean():.2f} ± {self.null_halves.std(ddof=1):.2f}) and "
            f"{self.single_images:.2f} ± {self.single_images_error:.2f} within single images"
        )


def judge(
    halves: float, null_halves: NDArray[np.float64], single_images: float, single_images_error: float, n_states: int
) -> Evidence:
    """Verdict on one of ``n_states`` states, each tested at a significance of 0.01 / ``n_states``.

    Parameters are those of :class:`Evidence`; ``null_halves`` has at least two values.
    """
    m = len(null_halves)
    spread = max(float(null_halves.std(ddof=1)) * np.sqrt(1 + 1 / m), 1e-12)
    halves_p = float(student.sf((halves - null_halves.mean()) / spread, m - 1))
    single_images_p = float(norm.sf(single_images / single_images_error))
    distinct = max(halves_p, single_images_p) < SIGNIFICANCE / n_states
    verdict = Verdict.DISTINCT if distinct else Verdict.NOT_DISTINGUISHABLE
    return Evidence(verdict, halves, null_halves, halves_p, single_images, single_images_error, single_images_p)


def not_tested(reason: str) -> Evidence:
    """Evidence of a state that cannot be compared."""
    return Evidence(Verdict.NOT_TESTED, np.nan, np.empty(0), np.nan, np.nan, np.nan, np.nan, reason)

"""The verdict on a state: against random subsets of equal size, and by single images."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from cryodrgn_ext.validation.differences import Products
from cryodrgn_ext.validation.single_images import NOTHING, SingleImages

SIGNIFICANCE = 0.01  # chance of any false "distinct" among all states of a job


class Verdict(Enum):
    """Verdict on a state from its comparison with random subsets."""

    DISTINCT = "distinct"
    NOT_DISTINGUISHABLE = "not distinguishable"
    NOT_TESTED = "not tested"


@dataclass(frozen=True)
class Evidence:
    """Evidence for a state. Values are nan when it was not tested.

    Attributes
    ----------
    verdict : Verdict
        Distinct when both correlations are significant.
    halves : float
        Correlation of the two halves' difference maps to the consensus, inside the mask.
    null_halves : ndarray
        (m,) the same of random subsets with the sizes of the states.
    halves_p : float
        Chance that one more random subset has such a strength (one-sided t-test of one value against a sample), see
        :meth:`RandomSubsets.strength`.
    single : SingleImages
        What single images show of the difference, outside of changes that are none of the molecule.
    n_states : int
        Among how many states the allowed chance of a false claim is shared.
    reason : str
        Why it was not tested.
    duplicates : bool
        Whether it would be distinct if images of which the other half-set has a copy counted.
    """

    verdict: Verdict
    halves: float
    null_halves: NDArray[np.float64]
    halves_p: float
    single: SingleImages
    n_states: int = 1
    reason: str = ""
    duplicates: bool = False

    @property
    def single_images(self) -> float:
        """Correlation over single images outside of all changes that are none of the molecule."""
        return self.single.value

    @property
    def single_images_error(self) -> float:
        """Its standard error where there is no heterogeneity."""
        return self.single.error

    @property
    def significance(self) -> float:
        """Chance of a false claim that each state is allowed."""
        return SIGNIFICANCE / self.n_states

    def sentence(self) -> str:
        """The evidence in one line for tables and reports."""
        if self.verdict is Verdict.NOT_TESTED:
            return f"{self.verdict.value}: {self.reason}"
        return (
            f"{self.verdict.value}: its difference from the consensus correlates {self.halves:.2f} between half-maps "
            f"(random subsets {self.null_halves.mean():.2f} ± {self.null_halves.std(ddof=1):.2f}) and "
            f"{self.single.whole:.2f} within single images, {self.single_images:.2f} ± {self.single_images_error:.2f} "
            "outside of what contrast, optics and poses can make"
        )


class RandomSubsets:
    """Products of the difference maps of random subsets, and what they say of noise.

    The squared size of a subset's difference map is its noise, which falls with its number of particles. A correlation
    is bounded by 1, so that with few random subsets even a perfect one could not be told from chance; the inner product
    of the two maps over the noise that subsets of the same size have is not bounded.
    """

    def __init__(self) -> None:
        self._products: list[Products] = []
        self._sizes: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._products)

    def add(self, products: Products, n1: int, n2: int) -> None:
        """Take one more: its products, and its numbers of particles in the halves."""
        self._products.append(products)
        self._sizes.append((n1, n2))

    @property
    def correlations(self) -> NDArray[np.float64]:
        """(m,) between the halves' difference maps."""
        return np.array([products.correlation for products in self._products])

    @property
    def strengths(self) -> NDArray[np.float64]:
        """(m,) of the subsets themselves; see :meth:`strength`."""
        return np.array([self.strength(one, *size) for one, size in zip(self._products, self._sizes, strict=True)])

    def strength(self, products: Products, n1: int, n2: int) -> float:
        """Inner product in units of the noise of two random subsets of ``n1`` and ``n2`` particles."""
        own = list(zip(self._products, self._sizes, strict=True))
        noise1 = float(np.mean([one.first * size[0] for one, size in own]))
        noise2 = float(np.mean([one.second * size[1] for one, size in own]))
        return float(products.between * np.sqrt(n1 * n2 / max(noise1 * noise2, 1e-300)))


def judge(
    products: Products,
    sizes: tuple[int, int],
    random: RandomSubsets,
    single: SingleImages,
    n_states: int,
) -> Evidence:
    """Verdict on one of ``n_states`` states, each tested at a significance of 0.01 / ``n_states``.

    Parameters
    ----------
    products : Products
        Of the state's two difference maps.
    sizes : pair of int
        Its particles in the two halves.
    random : RandomSubsets
        At least two.
    single : SingleImages
    n_states : int
    """
    strength, null = random.strength(products, *sizes), random.strengths
    spread = max(float(null.std(ddof=1)) * np.sqrt(1 + 1 / len(null)), 1e-12)
    halves_p = float(stdtr(len(null) - 1, (null.mean() - strength) / spread))
    distinct = max(halves_p, single.p) < SIGNIFICANCE / n_states
    verdict = Verdict.DISTINCT if distinct else Verdict.NOT_DISTINGUISHABLE
    return Evidence(verdict, products.correlation, random.correlations, halves_p, single, n_states)


def not_tested(reason: str) -> Evidence:
    """Evidence of a state that cannot be compared."""
    nan, none = np.nan, np.empty(0)
    return Evidence(Verdict.NOT_TESTED, nan, none, nan, NOTHING, 1, reason)

"""Single images on a difference: as it is, outside of what errors can do, among images of one micrograph or view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtr, ndtri

from cryodrgn_ext.validation.covariates import Design

#: Changes of an expected image that a difference is taken outside of, one after the other; see :mod:`.nuisances`.
CONTRAST, OPTICS, ORIENTATION = "contrast", "defocus", "orientation errors"
LEVELS = (CONTRAST, OPTICS, ORIENTATION)
#: What is taken away of changes that are none of the molecule is known to no better than this share of its variance:
#: the consensus is an estimate, and errors have orders beyond the second.
REMAINDER = 0.1
#: A covariate that makes at least so much of what tells images apart ties a state to it, if nothing else is left.
MOSTLY = 0.5
#: Values that spread by less than this share of themselves are one value.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Tie:
    """How much of a difference, as single images show it, goes with something that is no structure.

    Attributes
    ----------
    name : str
        Of the covariate, see :mod:`.covariates`.
    share : float
        Of the variance between images, free of noise and of chance: 0 where the covariate tells nothing, 1 where images
        with equal covariates show the difference alike.
    within : float
        Correlation of the two memberships that is left between images of equal covariates.
    error : float
        Its standard error where there is no difference.
    """

    name: str
    share: float
    within: float
    error: float

    @property
    def p(self) -> float:
        """Chance of what is left where images of equal covariates do not differ."""
        return float(ndtr(-self.within / self.error))


@dataclass(frozen=True)
class SingleImages:
    """Correlations over single images of how far each shows a difference, between disjoint sets of coefficients.

    Attributes
    ----------
    whole : float
        Of the difference as it is.
    outside : tuple of float
        Outside of the changes of :data:`LEVELS`, each with those before it; the last one decides.
    error : float
        Standard error of each where there is no heterogeneity.
    ties : tuple of Tie
        Of the difference outside all changes.
    whole_ties : tuple of Tie
        Of the difference as it is.
    skewness : float
        Of each correlation's distribution where there is no heterogeneity: of a rare state, few images count for much.
    """

    whole: float
    outside: tuple[float, ...]
    error: float
    ties: tuple[Tie, ...] = ()
    whole_ties: tuple[Tie, ...] = ()
    skewness: float = 0.0

    @property
    def value(self) -> float:
        """Correlation outside of all changes."""
        return self.outside[-1]

    @property
    def p(self) -> float:
        """Chance of :attr:`value` where there is no heterogeneity, but for the remainder of what was taken away."""
        remainder = REMAINDER * max(max(self.whole, *self.outside) - self.value, 0.0)
        return self.chance(self.value - remainder)

    def chance(self, correlation: float) -> float:
        """Chance of so large a correlation where there is no heterogeneity."""
        from scipy.stats import pearson3

        return float(pearson3.sf(correlation / self.error, self.skewness))

    def cause(self, significance: float) -> str | None:
        """Name the level without which nothing is left of a difference that single images do show; None without one."""
        values = (self.whole, *self.outside[:-1])
        drops = [value - self.value > 3 * self.error for value in values]
        shown = [self.chance(value) < significance for value in values]
        found = [level for level, drop, show in zip(LEVELS, drops, shown, strict=True) if drop and show]
        return found[-1] if found else None


NOTHING = SingleImages(np.nan, (np.nan,) * len(LEVELS), np.nan)


def membership(strength: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Odds that an image belongs to a state, by the strength of the state's difference in it, as a probability.

    The state is taken to be shown by one standard deviation of noise: the strengths of a state of few images hardly
    correlate over all images, however well each of the few shows it, while memberships do. Where half of the images
    belong to it, memberships are as good as linear. They are a function of one set of coefficients alone, so that where
    images do not differ those of two disjoint sets are as independent as the strengths are.

    Parameters
    ----------
    strength : ndarray
        (n,) in any unit.
    share : float
        Of the images that belong to the state, between 0 and 1.
    """
    middle = np.median(strength)
    noise = float(np.median(np.abs(strength - middle))) / float(ndtri(0.75))
    if noise <= 0:
        return np.full(len(strength), share)
    return np.asarray(expit((strength - middle) / noise - 0.5 + logit(share)))


def correlation_of(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[float, float]:
    """Correlation of two measures of the same n images, and the skewness that it has where they are independent.

    Of n independent pairs with skewnesses g and h, that of the mean product is g h / sqrt(n). With it, a Pearson
    distribution of type III gives chances down to 0.001 where shares are as small as 0.002.
    """
    if any(one.std() <= ROUNDING * np.abs(one).max(initial=0.0) for one in (first, second)):
        return 0.0, 0.0  # what is the same in all images but for rounding correlates with nothing
    from scipy.stats import skew

    return float(np.corrcoef(first, second)[0, 1]), float(skew(first) * skew(second) / np.sqrt(len(first)))


def find_ties(
    first: NDArray[np.float64], second: NDArray[np.float64], designs: dict[str, list[Design]], half: NDArray[np.int64]
) -> tuple[Tie, ...]:
    """Ties of a difference to covariates.

    Parameters
    ----------
    first, second : ndarray
        (n,) memberships of n images (:func:`membership`), by two disjoint sets of coefficients.
    designs : dict
        Name of a covariate to its design for the images of either half.
    half : ndarray
        (n,) 0 or 1: which of the two designs an image belongs to. The halves are looked at apart, since their
        difference maps are two.
    """
    found = []
    for name, pair in designs.items():
        shared, left, within, freedom = 0.0, 0.0, [], 0
        for number, design in enumerate(pair):
            a, b = first[half == number], second[half == number]
            a, b = a - a.mean(), b - b.mean()
            x, y = design.residual(a), design.residual(b)
            shared += float(a @ b) / max(len(a) - 1, 1)
            left += float(x @ y) / max(len(a) - design.rank, 1)
            size = float(np.sqrt((x @ x) * (y @ y)))
            within.append(float(x @ y) / size if size > 0 else 0.0)
            freedom += max(len(a) - design.rank, 1)
        share = 1 - left / shared if shared > 0 else 0.0
        found.append(Tie(name, float(np.clip(share, 0.0, 1.0)), float(np.mean(within)), freedom**-0.5))
    return tuple(found)

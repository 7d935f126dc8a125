"""Single images on a difference: as it is, outside of what errors can do, among images of one micrograph or view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from cryodrgn_ext.validation.covariates import Design

#: Changes of an expected image that a difference is taken outside of, one after the other; see :mod:`.nuisances`.
CONTRAST, OPTICS, ORIENTATION = "contrast", "defocus", "orientation errors"
LEVELS = (CONTRAST, OPTICS, ORIENTATION)
#: What is taken away of changes that are none of the molecule is known to no better than this share of its variance:
#: the consensus is an estimate, and errors have orders beyond the second.
REMAINDER = 0.1
#: A covariate that makes at least so much of what tells images apart ties a state to it, if nothing else is left.
MOSTLY = 0.5


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
        Correlation of the two strengths that is left between images of equal covariates.
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
        return float(norm.sf(self.within / self.error))


@dataclass(frozen=True)
class SingleImages:
    """Correlations over single images of the strength of a difference, between disjoint sets of coefficients.

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
    """

    whole: float
    outside: tuple[float, ...]
    error: float
    ties: tuple[Tie, ...] = ()
    whole_ties: tuple[Tie, ...] = ()

    @property
    def value(self) -> float:
        """Correlation outside of all changes."""
        return self.outside[-1]

    @property
    def p(self) -> float:
        """Chance of :attr:`value` where there is no heterogeneity, but for the remainder of what was taken away."""
        remainder = REMAINDER * max(max(self.whole, *self.outside) - self.value, 0.0)
        return float(norm.sf((self.value - remainder) / self.error))

    def cause(self, significance: float) -> str | None:
        """Name the level without which nothing is left of a difference that single images do show; None without one."""
        values = (self.whole, *self.outside[:-1])
        drops = [value - self.value > 3 * self.error for value in values]
        shown = [norm.sf(value / self.error) < significance for value in values]
        found = [level for level, drop, show in zip(LEVELS, drops, shown, strict=True) if drop and show]
        return found[-1] if found else None


NOTHING = SingleImages(np.nan, (np.nan,) * len(LEVELS), np.nan)


def find_ties(
    first: NDArray[np.float64], second: NDArray[np.float64], designs: dict[str, list[Design]], half: NDArray[np.int64]
) -> tuple[Tie, ...]:
    """Ties of a difference to covariates.

    Parameters
    ----------
    first, second : ndarray
        (n,) strengths of the difference in n images, by two disjoint sets of coefficients.
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

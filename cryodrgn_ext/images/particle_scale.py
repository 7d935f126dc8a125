"""How strongly images show a particle: which show none, and how much the others differ beyond their noise.

The scale at which an image holds the consensus at its own pose and CTF is known with an error that its noise gives.
Over all images scales are a mixture: around 0 where there is no particle, and of an unknown mean and spread (thickness
of the ice, errors of the poses) where there is one. Shares, mean and spread are found by expectation-maximisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
#: Mean scale of particles, in errors of one image's scale, below which single images do not tell.
FEWEST_ERRORS = 4.0
#: Spread of the scales of empty images beyond their error, in mean scales: noise is not quite stationary.
SPREAD_OF_NOTHING = 0.08
ITERATIONS = 100
WEIGHINGS = 5


@dataclass(frozen=True)
class ScaleSpread:
    """How much the scales of images with a particle differ, without what their errors make.

    Attributes
    ----------
    variance : float
        Of the scales over their mean; below 0 where they differ less than noise alone makes them.
    error : float
        Its standard error.
    """

    variance: float
    error: float

    @property
    def deviation(self) -> float:
        """Standard deviation of the scales over their mean; 0 where noise explains all."""
        return float(np.sqrt(max(self.variance, 0.0)))


def scale_error(power: FloatArray, noise: FloatArray) -> FloatArray:
    """Standard deviation (n,) by noise of least-squares scales of expected images.

    Of whitened images the noise where the particle is has unit power. All coefficients together have less, as images
    are set to 0 around the particle: ``noise`` says how much noisier one image is than the others.

    Parameters
    ----------
    power : ndarray
        (n,) of the expected images, over all coefficients.
    noise : ndarray
        (n,) mean power of a coefficient of what they leave.
    """
    mean = float(noise.mean()) if noise.size else 1.0
    level = noise / mean if mean > 0 else np.ones_like(noise)
    return np.asarray(np.sqrt(0.5 * level / np.maximum(power, 1e-30)))


def relative_spread(scale: FloatArray, error: FloatArray, empty: FloatArray) -> ScaleSpread:
    """Measure the spread of the scales of images with a particle.

    Each image's squared deviation, less what its error makes, counts by how well it is known (iterated).

    Parameters
    ----------
    scale, error : ndarray
        (n,) scale of the consensus in each image, and its standard deviation by noise.
    empty : ndarray
        (n,) probability that there is no particle.
    """
    shown, error = 1 - empty, np.maximum(error, 1e-12 * max(float(np.abs(scale).max(initial=0.0)), 1e-300))
    variance = 0.0
    for _ in range(WEIGHINGS):
        certain = shown / (error**2 + variance)
        mean = float((certain * scale).sum() / max(float(certain.sum()), 1e-300))
        weight = shown / (error**2 + variance) ** 2
        weight = weight / max(float(weight.sum()), 1e-300)
        beyond = (scale - mean) ** 2 - error**2
        found = float((weight * beyond).sum())
        variance = max(found, 0.0)
    if not mean > 0:
        return ScaleSpread(0.0, float("inf"))
    doubt = float(np.sqrt((weight**2 * (beyond - found) ** 2).sum()))
    return ScaleSpread(found / mean**2, doubt / mean**2)


def probability_of_nothing(scale: FloatArray, error: FloatArray) -> FloatArray:
    """(n,) posterior probability that scales with these errors are those of images without a particle."""
    mean, spread, share = float(np.quantile(scale, 0.75)), 0.2 * float(np.quantile(np.abs(scale), 0.75)), 0.05
    empty = np.zeros(len(scale))
    if not mean > 0:
        return empty
    for _ in range(ITERATIONS):
        nothing = _log_density(scale, 0.0, error**2 + (SPREAD_OF_NOTHING * mean) ** 2) + np.log(share)
        something = _log_density(scale, mean, error**2 + spread**2) + np.log1p(-share)
        empty = 1 / (1 + np.exp(np.clip(something - nothing, -700, 700)))
        weight = (1 - empty) / (error**2 + spread**2)
        mean = float((weight * scale).sum() / max(weight.sum(), 1e-300))
        shown = max((1 - empty).sum(), 1e-300)
        spread = float(np.sqrt(max((((1 - empty) * ((scale - mean) ** 2 - error**2)).sum()) / shown, 1e-4 * mean**2)))
        share = float(np.clip(empty.mean(), 1e-6, 0.9))
        if not mean > 0:
            return np.zeros(len(scale))
    tells = mean > FEWEST_ERRORS * np.hypot(error, SPREAD_OF_NOTHING * mean)
    return np.where(tells, empty, 0.0)


def _log_density(values: FloatArray, mean: float, variance: FloatArray) -> FloatArray:
    return np.asarray(-0.5 * ((values - mean) ** 2 / variance + np.log(variance)))

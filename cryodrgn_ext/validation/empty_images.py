"""Images that show no particle: how probable that is for each, from how strongly it shows the consensus.

The scale at which an image holds the consensus at its own pose and CTF is known with an error that its noise gives.
Over all images scales are a mixture: around 0 where there is no particle, and of an unknown mean and spread (thickness
of the ice, errors of the poses) where there is one. Shares, mean and spread are found by expectation-maximisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.validation.covariates import MEASURED_RADIUS, scale_and_noise

FloatArray = NDArray[np.float64]
#: Posterior probability from which an image is called empty.
BELIEVED = 0.95
#: Mean scale of particles, in errors of one image's scale, below which single images do not tell.
FEWEST_ERRORS = 4.0
#: Spread of the scales of empty images beyond their error, in mean scales: noise is not quite stationary.
SPREAD_OF_NOTHING = 0.08
ITERATIONS = 100


@dataclass(frozen=True)
class Presence:
    """Whether images show a particle.

    Attributes
    ----------
    rows : ndarray
        (n,) int64 images that can be used.
    scale, error : ndarray
        (n,) scale of the consensus in each, and its standard deviation by noise.
    empty : ndarray
        (n,) probability that there is no particle; 0 where single images do not tell.
    spread : float
        Standard deviation of the scales of images with a particle over their mean, without what noise makes.
    """

    rows: NDArray[np.int64]
    scale: FloatArray
    error: FloatArray
    empty: FloatArray
    spread: float

    @property
    def empty_rows(self) -> NDArray[np.int64]:
        """(m,) images that probably show none, increasing."""
        return self.rows[self.empty > BELIEVED]


def find_empty_images(images: ParticleImages, consensus: NDArray[np.float32]) -> Presence:
    """Measure how strongly each image shows the consensus, and how probable it is that it shows nothing.

    Parameters
    ----------
    images : ParticleImages
    consensus : ndarray
        (D, D, D) map of all.
    """
    rows = np.flatnonzero(~images.unusable)
    volume = FourierVolume.from_map(torch.from_numpy(consensus), radius=min(MEASURED_RADIUS, images.plane.radius))
    measured = scale_and_noise(images, torch.from_numpy(rows), volume)
    error = np.sqrt(0.5 * measured.noise / np.maximum(measured.power, 1e-30))
    empty = probability_of_nothing(measured.scale, error)
    spread = relative_spread(measured.scale, error, empty)
    return Presence(rows, measured.scale, error, empty, spread)


def relative_spread(scale: FloatArray, error: FloatArray, empty: FloatArray) -> float:
    """Spread of the scales of images with a particle over their mean, without what their errors make."""
    shown = (1 - empty) / max(float((1 - empty).sum()), 1e-300)
    mean = float((shown * scale).sum())
    variance = float((shown * ((scale - mean) ** 2 - error**2)).sum())
    return float(np.sqrt(max(variance, 0.0))) / mean if mean > 0 else 0.0


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

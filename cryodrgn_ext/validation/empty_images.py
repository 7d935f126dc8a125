"""Images that show no particle: how probable that is for each, from how strongly it shows the consensus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.images.particle_scale import FloatArray, probability_of_nothing, relative_spread, scale_error
from cryodrgn_ext.validation.covariates import MEASURED_RADIUS, scale_and_noise

#: Posterior probability from which an image is called empty.
BELIEVED = 0.95


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
    error = scale_error(measured.power, measured.noise)
    empty = probability_of_nothing(measured.scale, error)
    spread = relative_spread(measured.scale, error, empty).deviation
    return Presence(rows, measured.scale, error, empty, spread)

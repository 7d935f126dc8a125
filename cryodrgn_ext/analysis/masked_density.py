"""How much density each particle has within a mask, by the model's volume at its own latent, with its uncertainty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.engines.base import LinearForm

#: Density that counts as the particle's, as a share of the 99.9th percentile of the average map.
PERCENTILE, SHARE = 99.9, 0.45
#: Particles whose uncertainty is computed at a time.
BLOCK = 65_536


def solid_density(volume: NDArray[np.floating]) -> float:
    """Mean of a map (D, D, D) where it is particle, in its own unit; 1 for a map without density."""
    dense = volume[volume > SHARE * np.percentile(volume, PERCENTILE)]
    return float(dense.mean(dtype=np.float64)) if len(dense) else 1.0


@dataclass(frozen=True)
class MaskedDensity:
    """Mean density within a mask as a function of the latent: linear in what the volumes are linear in.

    Attributes
    ----------
    average : float
        Of the average map.
    parts : ndarray
        (m,) float64, what each component map adds.
    weights : callable
        (P, q) float32 latents -> (P, m) float32.
    unit : float
        What counts as 1, in the unit of the maps.
    """

    average: float
    parts: NDArray[np.float64]
    weights: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    unit: float = 1.0

    @classmethod
    def of(cls, form: LinearForm, mask: NDArray[np.floating]) -> MaskedDensity:
        """Measure within a mask (D, D, D); 1 is what the average map has where it is particle, 0 is solvent."""
        share = np.asarray(mask, np.float64) / float(np.sum(mask, dtype=np.float64))
        unit = solid_density(form.mean)
        parts = [float((component * share).sum()) / unit for component in form.components()]
        return cls(float((form.mean * share).sum()) / unit, np.array(parts, np.float64), form.weights, unit)

    def at(self, z: NDArray[np.floating]) -> NDArray[np.float64]:
        """(P,) mean density at latents (P, q)."""
        weights = self.weights(np.asarray(z, np.float32))
        found: NDArray[np.float64] = self.average + weights.astype(np.float64) @ self.parts
        return found

    def error(self, z: NDArray[np.floating], covariance: NDArray[np.floating]) -> NDArray[np.float64]:
        """(P,) standard deviation of it where latents are (P, q) with covariances (P, q, q).

        To first order: the root of the sum of squares of half the changes between one standard deviation to either
        side, along the principal axes of each covariance.
        """
        found = [
            self._error(z[start : start + BLOCK], covariance[start : start + BLOCK])
            for start in range(0, len(z), BLOCK)
        ]
        return np.concatenate(found) if found else np.zeros(0)

    def _error(self, z: NDArray[np.floating], covariance: NDArray[np.floating]) -> NDArray[np.float64]:
        variance, axes = np.linalg.eigh(covariance.astype(np.float64))
        steps = axes * np.sqrt(np.maximum(variance, 0.0))[:, None, :]
        halves = [0.5 * (self.at(z + steps[..., k]) - self.at(z - steps[..., k])) for k in range(z.shape[1])]
        spread: NDArray[np.float64] = np.sqrt(np.sum(np.square(halves), axis=0))
        return spread

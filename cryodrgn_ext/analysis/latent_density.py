"""How densely particles lie around each latent, and how far each is known; the explorer and reports show both."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

#: What the two are called.
DENSITY, LATENT_ERROR = "density of the particles (log10)", "standard error of the latent"
#: Of more neighbours a search among a million takes minutes.
MOST_NEIGHBORS = 50


def log_density(z: NDArray[np.floating], rows: NDArray[np.integer] | None = None) -> NDArray[np.float64]:
    """(n,) log10 of the density of particles around each latent (n, q), over that of the median particle.

    ``rows`` (m,) asks for those of some, over the median of these.

    By the distance to the k-th nearest other particle, k of the order of the root of n: the density is k over the
    volume of a ball of that radius (Loftsgaarden and Quesenberry 1965).
    """
    n, q = z.shape
    k = max(1, min(n - 1, round(n**0.5)))
    wanted = z if rows is None else z[rows]
    if n < 2:
        return np.zeros(len(wanted))
    distance = KDTree(z).query(wanted, k=[min(k, MOST_NEIGHBORS) + 1], workers=-1)[0][:, 0]
    density = -q * np.log10(np.maximum(distance, np.finfo(np.float32).tiny))
    found: NDArray[np.float64] = density - np.median(density)
    return found


def latent_error(covariance: NDArray[np.floating]) -> NDArray[np.float64]:
    """(n,) size of the standard errors of latents, by their covariances (n, q, q)."""
    variance = np.trace(covariance, axis1=1, axis2=2, dtype=np.float64)
    found: NDArray[np.float64] = np.sqrt(np.maximum(variance, 0))
    return found

"""Metric multidimensional scaling of volumes: a plane whose distances are those of the volumes (Zhong 2022, 6.2.5)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
ITERATIONS = 300
TOLERANCE = 1e-6


def multidimensional_scaling(distances: FloatArray, start: FloatArray, iterations: int = ITERATIONS) -> FloatArray:
    """Positions in a plane by stress majorisation (SMACOF; de Leeuw 1977).

    Parameters
    ----------
    distances : ndarray
        (K, K).
    start : ndarray
        (K, 2) where to begin: the first two principal components, from which the answer is deterministic.
    iterations : int
        At most; it ends when the stress falls by less than a millionth.

    Returns
    -------
    ndarray
        (K, 2) centred positions.
    """
    n = len(distances)
    positions: FloatArray = start - start.mean(axis=0)
    before = np.inf
    for _ in range(iterations):
        actual = _pairwise(positions)
        now = stress(distances, actual)
        if before - now <= TOLERANCE * max(now, np.finfo(np.float64).tiny):
            break
        before = now
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(actual > 0, distances / actual, 0.0)
        guttman = -ratio
        guttman[np.diag_indices(n)] += ratio.sum(axis=1)
        positions = guttman @ positions / n
    return positions


def stress(distances: FloatArray, actual: FloatArray) -> float:
    """Kruskal's stress 1: 0 when the distances in the plane are exact."""
    return float(np.sqrt(((distances - actual) ** 2).sum() / max((distances**2).sum(), np.finfo(np.float64).tiny)))


def _pairwise(positions: FloatArray) -> FloatArray:
    square = (positions**2).sum(axis=1)
    actual: FloatArray = np.sqrt(np.clip(square[:, None] + square[None, :] - 2 * positions @ positions.T, 0, None))
    np.fill_diagonal(actual, 0.0)
    return actual

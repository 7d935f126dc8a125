"""How near structures, and whole distributions of structures, come to others.

Points are (n, 3) in Å, the same atoms in the same order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import pdist

FloatArray = NDArray[np.float64]

#: Structures of each distribution that are assigned to each other (Rosenbaum et al. 2021).
EMD_SAMPLES = 2048
#: Pairs of structures that are superposed at a time.
PAIRS_AT_ONCE = 1 << 16
NEAR_A = 3.0


def rmsd(one: FloatArray, other: FloatArray) -> float:
    """Root mean square distance (Å) of points (n, 3) as they lie."""
    return float(np.sqrt(np.square(one - other).sum(axis=-1).mean()))


def superposed_rmsd(one: FloatArray, other: FloatArray) -> FloatArray:
    """Root mean square distances (...) of points (..., n, 3) after the best rotation and shift of each pair.

    Kabsch 1976: what is left follows from the singular values of the points' covariance; a reflection is no rotation.
    """
    a = one - one.mean(axis=-2, keepdims=True)
    b = other - other.mean(axis=-2, keepdims=True)
    outer = np.swapaxes(a, -1, -2) @ b
    values = np.linalg.svd(outer, compute_uv=False)
    values[..., 2] *= np.sign(np.linalg.det(outer))
    squared = np.square(a).sum(axis=(-1, -2)) + np.square(b).sum(axis=(-1, -2)) - 2 * values.sum(axis=-1)
    result: FloatArray = np.sqrt(np.maximum(squared, 0) / one.shape[-2])
    return result


def share_within(one: FloatArray, other: FloatArray, distance_A: float = NEAR_A) -> float:
    """Share of points that lie within a distance of those that they stand for (Zhong 2022, table 7.1)."""
    return float((np.square(one - other).sum(axis=-1) < distance_A**2).mean())


def volume_nmse(volume: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Squared error of a map over the truth's square, at the scale of the map that makes it least."""
    a, b = volume.astype(np.float64).ravel(), truth.astype(np.float64).ravel()
    power = float(a @ a)
    scale = float(a @ b) / power if power > 0 else 0.0
    return float(np.square(scale * a - b).sum() / (b @ b))


def pairwise_rmsd(some: FloatArray, others: FloatArray) -> FloatArray:
    """Distances (P, Q) of structures (P, n, 3) and (Q, n, 3), each pair superposed."""
    out = np.empty((len(some), len(others)))
    step = max(1, PAIRS_AT_ONCE // max(1, len(others)))
    for first in range(0, len(some), step):
        out[first : first + step] = superposed_rmsd(some[first : first + step, None], others[None])
    return out


def emd_rmsd(some: FloatArray, others: FloatArray, samples: int = EMD_SAMPLES, seed: int = 0) -> float:
    """Earth mover's distance (Å) of two distributions of structures (P, n, 3) and (Q, n, 3).

    As many of each are drawn (all, where there are no more) and assigned one to one such that the mean superposed
    distance is least (the Hungarian method): Rosenbaum et al. 2021, section 9.
    """
    generator = np.random.default_rng(seed)
    count = min(samples, len(some), len(others))
    a, b = (one[np.sort(generator.choice(len(one), count, replace=False))] for one in (some, others))
    cost = pairwise_rmsd(a, b)
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean())


def pair_distance_distance(some: FloatArray, others: FloatArray) -> float:
    """How far (Å) the distributions of distances between two atoms are apart, mean over all pairs of atoms.

    For each pair of atoms the area between the cumulative distributions (Wasserstein's distance) over the structures
    (P, n, 3) and (Q, n, 3): does not ask which structure is which, nor how it lies.
    """
    a, b = (np.sort(np.stack([pdist(structure) for structure in one]), axis=0) for one in (some, others))
    at = (np.arange(max(len(a), len(b))) + 0.5) / max(len(a), len(b))
    quantiles = [one[np.minimum((at * len(one)).astype(int), len(one) - 1)] for one in (a, b)]
    return float(np.abs(quantiles[0] - quantiles[1]).mean())

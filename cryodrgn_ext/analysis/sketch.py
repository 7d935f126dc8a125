"""A sketch of the particles: a few hundred that stand for all of them, rare states included (Zhong 2022, 6.2.3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from cryodrgn_ext.analysis.latents import check_latents, k_means, nearest_members
from cryodrgn_ext.errors import InputError

IndexArray = NDArray[np.int64]
RARE_SHARE = 0.1  # of the sketch, for groups that k-means represents badly
GROUP_SIZE = 10  # particles that make a group rather than an outlier
CANDIDATES = 0.1  # of the particles, those farthest from their representatives
PARTICLES_PER_BLOCK = 1 << 13


@dataclass(frozen=True)
class Sketch:
    """K particles that represent N.

    Attributes
    ----------
    index : ndarray
        (K,) int64 particles, increasing.
    label : ndarray
        (N,) int32, which of them (0..K-1) is nearest to each particle.
    """

    index: IndexArray
    label: NDArray[np.int32]

    @property
    def size(self) -> IndexArray:
        """(K,) number of particles that each stands for."""
        return np.bincount(self.label, minlength=len(self.index)).astype(np.int64)


def sketch_particles(x: NDArray[np.floating], n_points: int, *, seed: int = 0) -> Sketch:
    """Choose about ``n_points`` particles by k-means, and add groups that it has overlooked.

    Nine tenths are the particles nearest to k-means centres. A rare state whose particles k-means has counted to a
    larger neighbour is far from that centre although its particles are close to each other; the last tenth goes,
    one by one, to the particle whose distance to the nearest representative exceeds the most that to its own tenth
    neighbour. Single outliers have no close neighbours and are not taken.

    Parameters
    ----------
    x : ndarray
        (N, d) coordinates in which distances mean something: latents, or coordinates of volumes.
    n_points : int
        All particles are taken when there are not more.
    seed : int

    Raises
    ------
    InputError
        When coordinates are not finite or the number is not positive.
    """
    check_latents(x)
    if n_points < 1:
        raise InputError(f"a sketch needs at least one particle, not {n_points}")
    x = np.ascontiguousarray(x, np.float32)
    _, unique = np.unique(x, axis=0, return_index=True)
    if len(unique) <= n_points:
        index = np.sort(unique)
        return Sketch(index, nearest_points(x, x[index]))
    n_rare = round(RARE_SHARE * n_points) if len(x) > 5 * GROUP_SIZE else 0
    n_centers = n_points - n_rare
    label, centers = k_means(x, n_centers, seed=seed, n_init=1, rounds=50)
    chosen = nearest_members(x, label, centers)
    index = np.unique(np.concatenate([chosen, _overlooked(x, x[chosen], n_rare)]))
    return Sketch(index, nearest_points(x, x[index]))


def nearest_points(x: NDArray[np.floating], points: NDArray[np.floating]) -> NDArray[np.int32]:
    """(N,) int32 which of ``points`` (K, d) is nearest to each of ``x`` (N, d), in blocks.

    By matrix products: in many dimensions faster than a tree.
    """
    label = np.empty(len(x), np.int32)
    centre = points.mean(axis=0, dtype=np.float64)
    shifted = (points - centre).astype(np.float64)
    half_square = 0.5 * (shifted**2).sum(axis=1)
    for start in range(0, len(x), PARTICLES_PER_BLOCK):
        part = slice(start, start + PARTICLES_PER_BLOCK)
        label[part] = ((x[part] - centre) @ shifted.T - half_square).argmax(axis=1)
    return label


def _overlooked(x: NDArray[np.float32], points: NDArray[np.float32], n: int) -> IndexArray:
    """At most ``n`` particles amid groups that lie far from all ``points``."""
    if n == 0:
        return np.empty(0, np.int64)
    label = nearest_points(x, points)
    distance = np.linalg.norm(x - points[label], axis=1).astype(np.float64)
    n_candidates = min(len(x), max(1000, round(CANDIDATES * len(x))))
    candidate = np.argpartition(-distance, n_candidates - 1)[:n_candidates]
    candidate = candidate[distance[candidate] > 0]
    if len(candidate) == 0:
        return np.empty(0, np.int64)
    own, _ = KDTree(x).query(x[candidate], k=[min(GROUP_SIZE + 1, len(x))])
    spacing = np.maximum(own[:, 0], np.finfo(np.float32).tiny)
    remaining = distance[candidate]
    chosen = []
    for _ in range(min(n, len(candidate))):
        best = int(np.argmax(remaining / spacing))
        if not remaining[best] > 0:
            break
        chosen.append(candidate[best])
        remaining = np.minimum(remaining, np.linalg.norm(x[candidate] - x[candidate[best]], axis=1))
    return np.array(chosen, np.int64)

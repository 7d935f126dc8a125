"""Loops in a space of volumes: whether a motion comes back to where it began.

A motion that goes in a circle gives volumes on a closed curve. Seen through distances alone (Vietoris-Rips complexes
of growing scale, first homology over the integers modulo 2; Edelsbrunner, Letscher & Zomorodian 2002) it is a loop
that appears once neighbours along the curve are joined, and is filled only when points on opposite sides are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform

from cryodrgn_ext.analysis.latents import cluster_latents

FloatArray = NDArray[np.float64]
MOST_POINTS = 100  # a filled complex has their third power of triangles
MIDDLES = 48  # groups of particles that stand for the curve
FEWEST_PER_MIDDLE = 5
# Clouds of 48 normal points in 2 to 5 dimensions have persistences up to 1.8 (60 of them), and no gap.
PERSISTENCE_OF_A_LOOP = 2.0
GAP_OF_A_LOOP = 3.0


@dataclass(frozen=True)
class Closure:
    """Whether particles lie on a closed curve.

    Attributes
    ----------
    persistence : float
        Of the most persistent loop; see :attr:`Loop.persistence`.
    gap : float
        See :func:`closing_gap`.
    """

    persistence: float
    gap: float

    @property
    def is_closed(self) -> bool:
        """Whether both say so, with a margin over clouds without structure."""
        return self.persistence > PERSISTENCE_OF_A_LOOP and self.gap < GAP_OF_A_LOOP


def closure_of_particles(v: NDArray[np.floating], seed: int = 0) -> Closure | None:
    """Look for a closed curve among particles (N, d) in a space of volumes, by the middles of groups of them.

    Parameters
    ----------
    v : ndarray
        (N, d) coordinates whose distances are those of volumes, such as volume components.
    seed : int
        Of the grouping.

    Returns
    -------
    Closure or None
        None with fewer than two dimensions or five particles for each of 48 groups.
    """
    if v.shape[1] < 2 or len(np.unique(v[: 100 * MIDDLES], axis=0)) < FEWEST_PER_MIDDLE * MIDDLES:
        return None
    clusters = cluster_latents(v, MIDDLES, seed=seed)
    points = np.stack([v[clusters.label == k].mean(axis=0) for k in range(clusters.n_clusters)]).astype(np.float64)
    return Closure(most_persistent_loop(squareform(pdist(points))).persistence, closing_gap(points))


@dataclass(frozen=True)
class Loop:
    """The most persistent loop among some points.

    Attributes
    ----------
    birth : float
        The distance at which it closes; 0 when there is none.
    death : float
        The distance at which it is filled.
    """

    birth: float
    death: float

    @property
    def persistence(self) -> float:
        """How many times farther it is across than along: 1 for none; some times the square root of 3 for a circle."""
        return self.death / self.birth if self.birth > 0 else 1.0


def most_persistent_loop(distances: FloatArray) -> Loop:
    """The loop with the largest ratio of death to birth.

    Parameters
    ----------
    distances : ndarray
        (K, K), at most 100 points.

    Raises
    ------
    ValueError
        When there are more.
    """
    n = len(distances)
    if n > MOST_POINTS:
        raise ValueError(f"at most {MOST_POINTS} points, got {n}")
    i, j = np.triu_indices(n, 1)
    order = np.argsort(distances[i, j], kind="stable")
    length = distances[i, j][order]
    number = np.zeros((n, n), np.int64)
    number[i[order], j[order]] = np.arange(len(order))
    number += number.T
    a, b, c = (np.array(side) for side in zip(*_triples(n), strict=True)) if n > 2 else (np.zeros(0, int),) * 3
    edges = np.sort(np.stack([number[a, b], number[a, c], number[b, c]], axis=1), axis=1)
    # Reduce the boundaries of triangles in the order in which these appear; bits of a number are edges.
    boundary: dict[int, int] = {}
    best = Loop(0.0, 0.0)
    for low, middle, high in edges[np.argsort(edges[:, 2], kind="stable")].tolist():
        column = 1 << low | 1 << middle | 1 << high
        while column:
            youngest = column.bit_length() - 1
            if youngest not in boundary:
                boundary[youngest] = column
                found = Loop(float(length[youngest]), float(length[high]))
                if found.persistence > best.persistence:
                    best = found
                break
            column ^= boundary[youngest]
    return best


def _triples(n: int) -> list[tuple[int, int, int]]:
    return [(a, b, c) for a in range(n) for b in range(a + 1, n) for c in range(b + 1, n)]


def closing_gap(points: FloatArray) -> float:
    """How far apart the ends of a curve are: its widest gap over its median step.

    Points (K, d) are put in the order of their angle about the middle of the plane of their first two coordinates. On
    a closed curve every gap is a step like all others; where a curve is open, its ends are farther apart.
    """
    angle = np.arctan2(*(points[:, :2] - points[:, :2].mean(axis=0)).T[::-1])
    ordered = points[np.argsort(angle)]
    steps = np.linalg.norm(ordered - np.roll(ordered, 1, axis=0), axis=1)
    return float(steps.max() / max(float(np.median(steps)), np.finfo(np.float64).tiny))

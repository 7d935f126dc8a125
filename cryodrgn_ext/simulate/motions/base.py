"""Simulated specimens: Gaussian beads whose positions and masses depend on a few coordinates.

A motion knows no images: it maps coordinates (an angle, a state number, which subunits are bound) to beads.
Everything downstream (projection, volumes, ground truth) works for any motion.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

FloatArray = NDArray[np.float64]

BEAD_SIGMA_A = 2.5
BEAD_DISTANCE_A = 3.8  # distance of neighbouring C-alpha atoms


@dataclass(frozen=True)
class Beads:
    """Gaussian beads of ``B`` conformations in model coordinates, origin at the centre of the box.

    Attributes
    ----------
    position_A : ndarray
        (B, n, 3) x, y, z in Å.
    weight : ndarray
        (B, n) mass of each bead; 0 where the bead is absent.
    """

    position_A: FloatArray
    weight: FloatArray


class Motion(ABC):
    """A specimen with known heterogeneity.

    ``L`` coordinates describe a conformation, ``S`` numbered states are the ones whose volumes serve as ground truth.
    """

    sigma_A: float = BEAD_SIGMA_A

    @property
    @abstractmethod
    def coordinate_names(self) -> tuple[str, ...]:
        """Names of the ``L`` coordinates, units included."""

    @property
    @abstractmethod
    def state_coordinates(self) -> FloatArray:
        """(S, L) coordinates of the numbered states."""

    @abstractmethod
    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Draw (n, L) coordinates of ``n`` particles."""

    @abstractmethod
    def beads(self, coordinates: FloatArray) -> Beads:
        """Beads of conformations at ``coordinates`` (B, L)."""

    def state_of(self, coordinates: FloatArray) -> NDArray[np.int32]:
        """(N,) number of the state nearest to each of the ``coordinates`` (N, L)."""
        states = self.state_coordinates
        spread = np.ptp(states, axis=0)
        scale = np.where(spread > 0, spread, 1.0)
        nearest: NDArray[np.int32] = KDTree(states / scale).query(coordinates / scale)[1].astype(np.int32)
        return nearest

    @property
    def radius_A(self) -> float:
        """Largest distance of a bead from the origin over all numbered states, Å."""
        beads = self.beads(self.state_coordinates)
        distance = np.linalg.norm(beads.position_A, axis=-1)
        return float(distance[beads.weight > 0].max())


def bead_cloud(
    n: int, centre_A: tuple[float, float, float], radii_A: tuple[float, float, float], rng: np.random.Generator
) -> FloatArray:
    """Draw ``n`` beads in an ellipsoid, no two closer than 3.8 Å (random sequential adsorption).

    Parameters
    ----------
    n : int
    centre_A, radii_A : triple of float
        Centre and half axes of the ellipsoid in Å, order x, y, z.
    rng : numpy Generator

    Returns
    -------
    ndarray
        (n, 3) positions in Å.

    Raises
    ------
    ValueError
        When the ellipsoid is too small for ``n`` beads.
    """
    placed = np.empty((n, 3))
    count = 0
    for _ in range(200 * n):
        direction = rng.normal(size=3)
        point = direction / np.linalg.norm(direction) * rng.uniform() ** (1 / 3) * np.asarray(radii_A)
        gap = ((placed[:count] - point) ** 2).sum(1)
        if count == 0 or gap.min() >= BEAD_DISTANCE_A**2:
            placed[count] = point
            count += 1
            if count == n:
                placed += np.asarray(centre_A)
                return placed
    raise ValueError(f"{n} beads {BEAD_DISTANCE_A} Å apart do not fit into an ellipsoid of half axes {radii_A} Å")


def exact_counts(n: int, parts: tuple[int, ...]) -> NDArray[np.int64]:
    """Return how many of ``n`` particles each part gets: exact to one, and ``n`` in all (largest remainders first)."""
    share = np.array(parts) * n / sum(parts)
    counts = np.floor(share).astype(np.int64)
    counts[np.argsort(counts - share, kind="stable")[: n - counts.sum()]] += 1
    return counts


def rotations_about_y(angle_deg: FloatArray) -> FloatArray:
    """(B, 3, 3) matrices that turn column vectors xyz about the y axis by ``angle_deg`` (B,)."""
    angle = np.deg2rad(angle_deg)
    matrix = np.zeros((len(angle), 3, 3))
    matrix[:, 0, 0] = matrix[:, 2, 2] = np.cos(angle)
    matrix[:, 0, 2] = np.sin(angle)
    matrix[:, 2, 0] = -np.sin(angle)
    matrix[:, 1, 1] = 1.0
    return matrix

"""Compositional heterogeneity: a core to which each of several subunits is bound or not."""

from __future__ import annotations

import itertools

import numpy as np

from cryodrgn_ext.simulate.motions.base import Beads, FloatArray, Motion, bead_cloud

N_CORE, N_SUBUNIT = 320, 90
SUBUNIT_RADII_A = (20.0, 20.0, 20.0)
PLACES_A = ((48.0, 0.0, 10.0), (-26.0, 42.0, -8.0), (-24.0, -40.0, 12.0))


class CompositionalMotion(Motion):
    """Three subunits around a core, each present with a given probability: 2^3 = 8 compositions.

    Parameters
    ----------
    seed : int
        Of the bead positions.
    occupancy : float
        Probability that a subunit is bound.
    """

    def __init__(self, seed: int = 0, occupancy: float = 0.5) -> None:
        rng = np.random.default_rng([seed, 103])
        core = bead_cloud(N_CORE, (0.0, 0.0, 0.0), (30.0, 30.0, 38.0), rng)
        subunits = [bead_cloud(N_SUBUNIT, place, SUBUNIT_RADII_A, rng) for place in PLACES_A]
        self._position = np.concatenate([core, *subunits])
        self._subunit = np.repeat(np.arange(len(PLACES_A) + 1) - 1, [N_CORE] + [N_SUBUNIT] * len(PLACES_A))
        self.occupancy = occupancy

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """Whether each subunit is bound (0 or 1)."""
        return tuple(f"subunit{i}" for i in range(1, len(PLACES_A) + 1))

    @property
    def state_coordinates(self) -> FloatArray:
        """(8, 3): all compositions, the bare core first."""
        return np.array(list(itertools.product((0.0, 1.0), repeat=len(PLACES_A))))

    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Draw compositions, (n, 3) of 0 and 1; subunits bind independently."""
        return (rng.uniform(size=(n, len(PLACES_A))) < self.occupancy).astype(np.float64)

    def beads(self, coordinates: FloatArray) -> Beads:
        """All beads at rest; those of absent subunits have no mass. ``coordinates`` (B, 3)."""
        bound = np.concatenate([np.ones((len(coordinates), 1)), coordinates], axis=1)
        position = np.broadcast_to(self._position, (len(coordinates), *self._position.shape))
        return Beads(position.copy(), bound[:, self._subunit + 1])

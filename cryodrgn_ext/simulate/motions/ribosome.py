"""Compositional heterogeneity as in Zhong 2022, 4.4.1: small subunit, large subunit and both, 10 : 15 : 25."""

from __future__ import annotations

import numpy as np

from cryodrgn_ext.simulate.motions.base import Beads, FloatArray, Motion, bead_cloud, exact_counts

N_SMALL, N_LARGE = 220, 420
PARTS = (10, 15, 25)


class RibosomeMotion(Motion):
    """Two subunits, of which the small one, the large one, or both are there; the masses are as 1 : 1.9.

    Parameters
    ----------
    seed : int
        Of the bead positions.
    """

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng([seed, 106])
        small = bead_cloud(N_SMALL, (44.0, 0.0, 0.0), (20.0, 44.0, 30.0), rng)
        large = bead_cloud(N_LARGE, (-18.0, 0.0, 0.0), (38.0, 44.0, 40.0), rng)
        self._position = np.concatenate([small, large])
        self._is_large = np.repeat([0, 1], [N_SMALL, N_LARGE])

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """Whether each subunit is there (0 or 1)."""
        return ("small", "large")

    @property
    def state_coordinates(self) -> FloatArray:
        """(3, 2): the small subunit, the large one, both."""
        return np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])

    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Compositions (n, 2) in exact proportions (to one particle), in random order."""
        state = np.repeat(np.arange(len(PARTS)), exact_counts(n, PARTS))
        coordinates: FloatArray = self.state_coordinates[rng.permutation(state)]
        return coordinates

    def beads(self, coordinates: FloatArray) -> Beads:
        """All beads at rest; those of an absent subunit have no mass. ``coordinates`` (B, 2)."""
        position = np.broadcast_to(self._position, (len(coordinates), *self._position.shape))
        return Beads(position.copy(), coordinates[:, self._is_large])

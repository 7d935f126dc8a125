"""A rare state planted among the particles of any other motion."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.simulate.motions.base import BEAD_DISTANCE_A, Beads, FloatArray, Motion, bead_cloud

N_FACTOR = 110
FACTOR_RADII_A = (21.0, 21.0, 21.0)


class RareStateMotion(Motion):
    """Most particles are as another motion has them; an exact fraction is its first state with one more factor bound.

    Parameters
    ----------
    base : Motion
        What the other particles do.
    fraction : float
        Of the particles in the rare state; above 0 and at most 0.5.
    seed : int
        Of the factor's beads.
    """

    def __init__(self, base: Motion, fraction: float, seed: int = 0) -> None:
        if not 0 < fraction <= 0.5:
            raise InputError(f"the fraction of the rare state must be above 0 and at most 0.5, got {fraction:g}")
        self.base, self.fraction, self.sigma_A = base, fraction, base.sigma_A
        first = base.beads(base.state_coordinates[:1])
        occupied = first.position_A[0][first.weight[0] > 0]
        factor = bead_cloud(N_FACTOR, (0.0, 0.0, 0.0), FACTOR_RADII_A, np.random.default_rng([seed, 107]))
        self._factor = factor + _free_place(occupied, factor)

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """Those of the other motion, and whether the particle is in the rare state (0 or 1)."""
        return (*self.base.coordinate_names, "rare")

    @property
    def state_coordinates(self) -> FloatArray:
        """(S + 1, L + 1): the states of the other motion, and the rare one last."""
        base = self.base.state_coordinates
        rare = np.concatenate([base[0], [1.0]])
        return np.concatenate([np.pad(base, ((0, 0), (0, 1))), rare[None]])

    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Draw coordinates (n, L + 1); the rare state gets its fraction of n, rounded, but at least one particle."""
        coordinates = np.pad(self.base.sample(n, rng), ((0, 0), (0, 1)))
        chosen = rng.permutation(n)[: max(1, round(self.fraction * n))]
        coordinates[chosen] = self.state_coordinates[-1]
        return coordinates

    def beads(self, coordinates: FloatArray) -> Beads:
        """Beads of the other motion and those of the factor, which have mass in the rare state only."""
        base, rare = self.base.beads(coordinates[:, :-1]), coordinates[:, -1:]
        factor = np.broadcast_to(self._factor, (len(coordinates), *self._factor.shape))
        weight = np.broadcast_to(rare, (len(coordinates), len(self._factor)))
        return Beads(np.concatenate([base.position_A, factor], axis=1), np.concatenate([base.weight, weight], axis=1))

    def state_of(self, coordinates: FloatArray) -> NDArray[np.int32]:
        """(N,) number of the other motion's nearest state, or S for the rare state."""
        state = self.base.state_of(coordinates[:, :-1])
        return np.where(coordinates[:, -1] > 0, np.int32(len(self.base.state_coordinates)), state).astype(np.int32)


def _free_place(occupied: FloatArray, factor: FloatArray) -> FloatArray:
    """Return (3,) where the factor (n, 3) touches the other beads (m, 3) along -y, the side that motions leave free."""
    column = occupied[np.hypot(occupied[:, 0], occupied[:, 2]) < FACTOR_RADII_A[0]]
    lowest = column[:, 1].min() if len(column) else 0.0
    return np.array([0.0, lowest - factor[:, 1].max() - BEAD_DISTANCE_A, 0.0])

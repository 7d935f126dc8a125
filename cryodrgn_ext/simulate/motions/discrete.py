"""Ten discrete states: a body at rest and a domain that sits in one of several places, turned in its own way."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from cryodrgn_ext.simulate.motions.base import Beads, FloatArray, Motion, bead_cloud

N_BODY, N_DOMAIN = 380, 180
BODY_RADII_A = (34.0, 34.0, 30.0)
DOMAIN_RADII_A = (18.0, 18.0, 34.0)
GAP_A = 52.0  # from the centre of the body to the centre of the domain


class DiscreteMotion(Motion):
    """Conformations without anything between them.

    Parameters
    ----------
    seed : int
        Of the beads and of how the domain is turned in each state.
    n_states : int
        Number of states; the places are spread evenly over a sphere around the body (a Fibonacci spiral).
    """

    def __init__(self, seed: int = 0, n_states: int = 10) -> None:
        rng = np.random.default_rng([seed, 102])
        self._body = bead_cloud(N_BODY, (0.0, 0.0, 0.0), BODY_RADII_A, rng)
        self._domain = bead_cloud(N_DOMAIN, (0.0, 0.0, 0.0), DOMAIN_RADII_A, rng)
        number = np.arange(n_states) + 0.5
        height = 1 - 2 * number / n_states
        azimuth = np.pi * (1 + 5**0.5) * number
        ring = np.sqrt(1 - height**2)
        self._place = GAP_A * np.stack([ring * np.cos(azimuth), ring * np.sin(azimuth), height], axis=1)
        self._turn = Rotation.random(n_states, rng=rng).as_matrix()

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """The number of the state."""
        return ("state",)

    @property
    def state_coordinates(self) -> FloatArray:
        """(S, 1): 0, 1, ... S - 1."""
        return np.arange(float(len(self._place)))[:, None]

    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Draw states with equal probability, (n, 1)."""
        return rng.integers(0, len(self._place), size=n).astype(np.float64)[:, None]

    def beads(self, coordinates: FloatArray) -> Beads:
        """Beads of the states numbered by ``coordinates`` (B, 1)."""
        state = coordinates[:, 0].astype(np.int64)
        domain = self._domain @ self._turn[state].transpose(0, 2, 1) + self._place[state][:, None]
        body = np.broadcast_to(self._body, (len(state), *self._body.shape))
        position = np.concatenate([body, domain], axis=1)
        return Beads(position, np.ones(position.shape[:2]))

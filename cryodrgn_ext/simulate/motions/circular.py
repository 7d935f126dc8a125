"""Circular motion: a domain that goes around a body and comes back to where it was."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.simulate.motions.base import Beads, FloatArray, Motion, bead_cloud, rotations_about_y

N_BODY, N_ARM = 420, 180
FULL_TURN_DEG = 360.0


class CircularMotion(Motion):
    """A body and an arm that turns by a full circle about the y axis, rigidly, as a bond that is free to rotate does.

    Parameters
    ----------
    seed : int
        Of the bead positions.
    n_states : int
        Numbered states, evenly spaced on the circle; particles are at one of them.
    """

    def __init__(self, seed: int = 0, n_states: int = 60) -> None:
        rng = np.random.default_rng([seed, 105])
        body = bead_cloud(N_BODY, (0.0, -8.0, 0.0), (32.0, 40.0, 26.0), rng)
        arm = bead_cloud(N_ARM, (50.0, 22.0, 0.0), (30.0, 16.0, 16.0), rng)
        self._body, self._arm = body, arm
        self._angles: FloatArray = np.arange(float(n_states)) * (FULL_TURN_DEG / n_states)

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """The angle in degrees, 0..360; both ends are the same conformation."""
        return ("angle_deg",)

    @property
    def state_coordinates(self) -> FloatArray:
        """(S, 1) angles from 0, the end of the circle not repeated."""
        return self._angles[:, None]

    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Uniform steps of the circle, (n, 1)."""
        return self._angles[rng.integers(0, len(self._angles), size=n)][:, None]

    def beads(self, coordinates: FloatArray) -> Beads:
        """Beads with the arm at the angles ``coordinates`` (B, 1)."""
        arm = self._arm @ rotations_about_y(coordinates[:, 0]).transpose(0, 2, 1)
        body = np.broadcast_to(self._body, (len(coordinates), *self._body.shape))
        position = np.concatenate([body, arm], axis=1)
        return Beads(position, np.ones(position.shape[:2]))

    def state_of(self, coordinates: FloatArray) -> NDArray[np.int32]:
        """(N,) number of the nearest state on the circle: 359 degrees are near state 0."""
        step = FULL_TURN_DEG / len(self._angles)
        return np.rint(coordinates[:, 0] / step).astype(np.int32) % np.int32(len(self._angles))

"""Linear motion in two dimensions: two arms, of which one or the other is out of its starting place."""

from __future__ import annotations

import numpy as np

from cryodrgn_ext.simulate.motions.base import Beads, FloatArray, Motion, bead_cloud, rotations_about_y

N_BODY, N_ARM = 300, 140


class TwoHingesMotion(Motion):
    """A body with two arms on opposite sides, which turn about hinges of their own, each in a plane of its own.

    As in Zhong 2022, 3.7.1, one coordinate moves while the other stays at its start, so conformations lie on two lines
    that meet.

    Parameters
    ----------
    seed : int
        Of the bead positions.
    max_angle_deg : float
        Either arm turns from 0 to this angle.
    n_states : int
        Numbered states along each line; the first of both is the same conformation.
    """

    def __init__(self, seed: int = 0, max_angle_deg: float = 70.0, n_states: int = 15) -> None:
        rng = np.random.default_rng([seed, 104])
        self._body = bead_cloud(N_BODY, (0.0, 0.0, -10.0), (34.0, 34.0, 26.0), rng)
        self._first = bead_cloud(N_ARM, (30.0, 0.0, 44.0), (15.0, 15.0, 36.0), rng)
        self._second = bead_cloud(N_ARM, (-30.0, 0.0, 44.0), (15.0, 15.0, 36.0), rng)
        self._hinge = np.array([[30.0, 0.0, 12.0], [-30.0, 0.0, 12.0]])
        self._angles = np.linspace(0.0, max_angle_deg, n_states)

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """Angles of both arms in degrees."""
        return ("angle1_deg", "angle2_deg")

    @property
    def state_coordinates(self) -> FloatArray:
        """(2 S - 1, 2): along the first line, then along the second without its start."""
        still, away = np.zeros_like(self._angles), self._angles[1:]
        return np.concatenate([np.stack([self._angles, still], axis=1), np.stack([np.zeros_like(away), away], axis=1)])

    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Half of the particles along either line, uniform in the steps of the angle, (n, 2)."""
        angle = self._angles[rng.integers(0, len(self._angles), size=n)]
        coordinates = np.zeros((n, 2))
        coordinates[np.arange(n), rng.permutation(np.arange(n) % 2)] = angle
        return coordinates

    def beads(self, coordinates: FloatArray) -> Beads:
        """Beads with the arms at ``coordinates`` (B, 2); the second arm swings in the y-z plane."""
        first = (self._first - self._hinge[0]) @ rotations_about_y(coordinates[:, 0]).transpose(0, 2, 1)
        turn = rotations_about_y(coordinates[:, 1])[:, [1, 0, 2]][:, :, [1, 0, 2]]  # about x instead of y
        second = (self._second - self._hinge[1]) @ turn.transpose(0, 2, 1)
        body = np.broadcast_to(self._body, (len(coordinates), *self._body.shape))
        position = np.concatenate([body, first + self._hinge[0], second + self._hinge[1]], axis=1)
        return Beads(position, np.ones(position.shape[:2]))

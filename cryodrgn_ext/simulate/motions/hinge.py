"""Two-domain protein: a body at rest and an arm that turns about a hinge (one coordinate, an angle)."""

from __future__ import annotations

import numpy as np

from cryodrgn_ext.simulate.motions.base import Beads, FloatArray, Motion, bead_cloud, rotations_about_y

N_CORE, N_LOBE, N_ARM = 260, 160, 180


class HingeMotion(Motion):
    """A body of 70 % of the mass and an arm of 30 % that swings outwards in the x-z plane.

    Parameters
    ----------
    seed : int
        Of the bead positions.
    max_angle_deg : float
        The arm turns from 0 to this angle.
    n_states : int
        Number of evenly spaced angles whose volumes are the ground truth; 1 gives a rigid specimen.
    continuous : bool
        Draw angles from the whole interval; otherwise only the ``n_states`` steps occur.
    """

    def __init__(
        self, seed: int = 0, max_angle_deg: float = 60.0, n_states: int = 20, continuous: bool = False
    ) -> None:
        rng = np.random.default_rng([seed, 101])
        core = bead_cloud(N_CORE, (0.0, 0.0, -18.0), (42.0, 30.0, 26.0), rng)
        lobe = bead_cloud(N_LOBE, (-22.0, 6.0, 24.0), (24.0, 26.0, 24.0), rng)
        arm = bead_cloud(N_ARM, (44.0, 0.0, 36.0), (17.0, 17.0, 42.0), rng)
        centre = np.concatenate([core, lobe, arm]).mean(0)
        self._body = np.concatenate([core, lobe]) - centre
        self._arm = arm - centre
        self._hinge = np.array([30.0, 0.0, 0.0]) - centre
        self.continuous = continuous
        self._angles = np.linspace(0.0, max_angle_deg, n_states)

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """The angle of the arm in degrees."""
        return ("angle_deg",)

    @property
    def state_coordinates(self) -> FloatArray:
        """(S, 1) evenly spaced angles."""
        return self._angles[:, None]

    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Uniform angles, (n, 1)."""
        if self.continuous:
            return rng.uniform(self._angles[0], self._angles[-1], size=(n, 1))
        return self._angles[rng.integers(0, len(self._angles), size=n)][:, None]

    def beads(self, coordinates: FloatArray) -> Beads:
        """Beads with the arm at the angles ``coordinates`` (B, 1)."""
        turn = rotations_about_y(coordinates[:, 0])
        arm = (self._arm - self._hinge) @ turn.transpose(0, 2, 1) + self._hinge
        body = np.broadcast_to(self._body, (len(coordinates), *self._body.shape))
        position = np.concatenate([body, arm], axis=1)
        return Beads(position, np.ones(position.shape[:2]))


def two_domain_protein(
    seed: int = 0, max_angle_deg: float = 60.0, n_states: int = 20, continuous: bool = False
) -> HingeMotion:
    """The two-domain protein of the benchmarks and the demo: 600 beads, sigma 2.5 Å; see :class:`HingeMotion`."""
    return HingeMotion(seed, max_angle_deg, n_states, continuous)

"""One linear motion, populated in three ways: uniform, cooperative, and with states that are not connected."""

from __future__ import annotations

import numpy as np

from cryodrgn_ext.simulate.motions.base import FloatArray
from cryodrgn_ext.simulate.motions.hinge import HingeMotion

# Zhong 2022, 4.4.1: 50 maps, 0.03 rad apart; three gaussians around the 10th, 25th and 40th of them.
N_STATES, STEP_RAD = 50, 0.03
CENTERS = (9, 24, 39)
COOPERATIVE_RAD, NONCONTIGUOUS_RAD = 0.09, 0.03


class HingeMixture(HingeMotion):
    """The arm of :class:`HingeMotion` over 1.47 rad, its angles drawn from three gaussians and put into 50 steps.

    Parameters
    ----------
    seed : int
        Of the bead positions.
    spread_rad : float or None
        Standard deviation of each gaussian (0.09: cooperative; 0.03: not contiguous); None for uniform steps.
    """

    def __init__(self, seed: int = 0, spread_rad: float | None = None) -> None:
        super().__init__(seed, float(np.degrees(STEP_RAD * (N_STATES - 1))), N_STATES)
        self.spread_rad = spread_rad

    def sample(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Angles in degrees, (n, 1): each gaussian has a third of the particles; beyond the ends they are clipped."""
        if self.spread_rad is None:
            return super().sample(n, rng)
        center = np.array(CENTERS)[rng.permutation(np.arange(n) % len(CENTERS))]
        step = np.rint(center + rng.normal(scale=self.spread_rad / STEP_RAD, size=n))
        angles: FloatArray = self.state_coordinates[np.clip(step, 0, N_STATES - 1).astype(np.int64)]
        return angles

"""A specimen of beads, a body and an arm, and what it does: nothing, bend, slide, or bend in a few particles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

FloatArray = NDArray[np.float64]
#: What the molecule does; "none" is one structure.
MOTIONS = ("none", "bend", "slide", "rare")
BEND_DEG = 60.0  # of the arm, 30 % of the mass, uniform
SLIDE_A = 15.0  # of a tenth of the mass, uniform
RARE_SHARE, RARE_DEG = 0.03, 60.0
N_BODY, N_ARM, N_SLIDING = 140, 60, 20
SIGMA_A = 6.0  # width of the beads


def _chain(count: int, radius_A: FloatArray, rng: np.random.Generator) -> FloatArray:
    """(count, 3) beads of a random walk inside an ellipsoid."""
    point = np.zeros(3)
    found: list[FloatArray] = []
    while len(found) < count:
        step = point + rng.normal(size=3) * radius_A / 3
        if np.linalg.norm(step / radius_A) < 1:
            point = step
            found.append(step)
    return np.array(found)


class Specimen:
    """Beads of equal mass; ``seed`` draws them.

    The arm turns about an axis through its root; the sliding part is the last of the arm's beads.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 21])
        self.body = _chain(N_BODY, np.array([48.0, 40.0, 32.0]), rng)
        self.arm = _chain(N_ARM, np.array([36.0, 17.0, 17.0]), rng)
        self.arm[:, 0] -= self.arm[:, 0].min()  # from its root outwards
        self.arm = self.arm[np.argsort(self.arm[:, 0])]
        self.root = np.array([34.0, 18.0, 10.0])
        axis = np.array([0.2, -0.3, 0.93])
        self.axis = axis / np.linalg.norm(axis)
        self.centre = np.concatenate([self.body, self.arm + self.root]).mean(axis=0)

    def beads(self, motion: str, coordinate: FloatArray) -> FloatArray:
        """(N, B, 3) places in Å at coordinates (N,): degrees of the arm, or Å of the sliding part."""
        arm = np.broadcast_to(self.arm, (len(coordinate), *self.arm.shape))
        if motion == "slide":
            arm = arm.copy()
            arm[:, -N_SLIDING:] += coordinate[:, None, None] * self.axis
        else:
            turn = Rotation.from_rotvec(np.deg2rad(coordinate)[:, None] * self.axis).as_matrix()
            arm = arm @ turn.transpose(0, 2, 1)
        body = np.broadcast_to(self.body, (len(coordinate), *self.body.shape))
        return np.asarray(np.concatenate([body, arm + self.root], axis=1) - self.centre)


def draw_coordinates(motion: str, count: int, rng: np.random.Generator) -> FloatArray:
    """(count,) coordinates of the particles."""
    if motion == "bend":
        return rng.uniform(-BEND_DEG / 2, BEND_DEG / 2, count)
    if motion == "slide":
        return rng.uniform(-SLIDE_A / 2, SLIDE_A / 2, count)
    if motion == "rare":
        return np.where(rng.random(count) < RARE_SHARE, RARE_DEG, 0.0)
    return np.zeros(count)


def possible_coordinates(motion: str) -> FloatArray:
    """(P,) coordinates, of which exact inference chooses."""
    ends = {"bend": BEND_DEG / 2, "slide": SLIDE_A / 2}
    if motion == "rare":
        return np.array([0.0, RARE_DEG])
    return np.linspace(-ends[motion], ends[motion], 9)

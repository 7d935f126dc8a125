"""Coordinate transforms of a model, and what they do to the poses of its images.

A transform moves a model point p to

    p' = A M p + s            (M = diag(1, 1, -1) when mirrored, else the identity)

and all images stay as they are when the poses go along:

    R' = M R M Aᵀ,            t' = t - (R' s)[:2]

(mirrored, M R p differs from R p in its third component only, along which images are sums).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from cryodrgn_ext.images.poses import Poses

FloatArray: TypeAlias = NDArray[np.float64]

MIRROR: FloatArray = np.diag([1.0, 1.0, -1.0])


@dataclass(frozen=True)
class CoordinateTransform:
    """A rigid transform of the model's coordinates, p' = rotation @ mirror @ p + shift_px.

    Attributes
    ----------
    rotation : ndarray
        (3, 3) float64 proper rotation A.
    shift_px : ndarray
        (3,) float64 s (x, y, z), in the pixels of the shifts that it is applied to.
    mirrored : bool
        Whether z is inverted first: the other hand.
    """

    rotation: FloatArray
    shift_px: FloatArray
    mirrored: bool = False

    @classmethod
    def identity(cls, mirrored: bool = False) -> CoordinateTransform:
        """Nothing moves, but for the hand if asked."""
        return cls(np.eye(3), np.zeros(3), mirrored)

    @property
    def matrix(self) -> Float[np.ndarray, "3 3"]:
        """(3, 3) orthogonal matrix that points are multiplied by: A M."""
        return self.rotation @ MIRROR if self.mirrored else self.rotation

    def points(self, points: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
        """Where model points (..., 3) go."""
        moved: FloatArray = points @ self.matrix.T + self.shift_px
        return moved

    def poses(self, poses: Poses) -> Poses:
        """Poses (N,) of the same images in the new coordinates, float64; shifts in the unit of this one's shift."""
        return Poses.of(*self.arrays(*float64_arrays(poses)))

    def arrays(
        self, rotation: Float[np.ndarray, "N 3 3"], shift_px: Float[np.ndarray, "N 2"]
    ) -> tuple[Float[np.ndarray, "N 3 3"], Float[np.ndarray, "N 2"]]:
        """The same of arrays (N, 3, 3) and (N, 2)."""
        moved = (MIRROR @ rotation @ MIRROR if self.mirrored else rotation) @ self.rotation.T
        return moved, shift_px - moved[:, :2] @ self.shift_px

    def then(self, other: CoordinateTransform) -> CoordinateTransform:
        """The transform that does this one first and ``other`` after it."""
        # A2 M2 A1 M1 = (A2 M2 A1 M2) (M2 M1)
        first = MIRROR @ self.rotation @ MIRROR if other.mirrored else self.rotation
        shift = other.matrix @ self.shift_px + other.shift_px
        return CoordinateTransform(other.rotation @ first, shift, self.mirrored != other.mirrored)

    def inverse(self) -> CoordinateTransform:
        """The transform that undoes this one."""
        back = MIRROR @ self.rotation.T @ MIRROR if self.mirrored else self.rotation.T
        return CoordinateTransform(back, -self.matrix.T @ self.shift_px, self.mirrored)

    def scaled(self, factor: float) -> CoordinateTransform:
        """The same transform in pixels of which there are ``factor`` times as many."""
        return CoordinateTransform(self.rotation, self.shift_px * factor, self.mirrored)


def float64_arrays(poses: Poses) -> tuple[FloatArray, FloatArray]:
    """Rotations and shifts in double precision."""
    rotation, shift_px = poses.numpy()
    return np.asarray(rotation, np.float64), np.asarray(shift_px, np.float64)

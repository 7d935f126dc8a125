"""How far two sets of poses are apart, once the frames of their models have been brought together.

Ab initio poses live in a frame of their own: turned, shifted and perhaps mirrored against any other. A change of frame
moves a model point p to

    p' = A M p + s            (M = diag(1, 1, -1) when mirrored, else the identity)

and all images stay as they are when the poses go along:

    R' = M R M Aᵀ,            t' = t - (R' s)[:2]

(mirrored, M R p differs from R p in its third component only, along which images are sums). The global alignment finds
A, M and s between two sets of poses, and errors are measured after it (thesis 5.6.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

FloatArray: TypeAlias = NDArray[np.float64]

MIRROR: FloatArray = np.diag([1.0, 1.0, -1.0])
#: Images tried as the one that tells the rotation between the frames, and images that judge each of them.
CANDIDATES, JUDGES = 256, 4096
#: Images that the median rotation and the shift are taken over, however many there are.
MOST_AVERAGED = 100_000
#: Disagreement beyond which an image counts as lost, however far it is off.
LOST_DEG = 30.0
ITERATIONS = 50


@dataclass(frozen=True)
class CoordinateTransform:
    """A rigid change of the model frame, p' = rotation @ mirror @ p + shift_px.

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
    def matrix(self) -> FloatArray:
        """(3, 3) orthogonal matrix that points are multiplied by: A M."""
        return self.rotation @ MIRROR if self.mirrored else self.rotation

    def points(self, points: FloatArray) -> FloatArray:
        """Where model points (..., 3) go."""
        return points @ self.matrix.T + self.shift_px

    def poses(self, rotation: NDArray[np.floating], shift_px: NDArray[np.floating]) -> tuple[FloatArray, FloatArray]:
        """Poses of the same images in the new frame.

        Parameters
        ----------
        rotation : ndarray
            (N, 3, 3) model frame to image frame.
        shift_px : ndarray
            (N, 2) displacement x, y from the box centre.

        Returns
        -------
        (rotation, shift_px) : (N, 3, 3), (N, 2) float64
        """
        given = np.asarray(rotation, np.float64)
        turned = (MIRROR @ given @ MIRROR if self.mirrored else given) @ self.rotation.T
        return turned, np.asarray(shift_px, np.float64) - turned[:, :2] @ self.shift_px

    def then(self, other: CoordinateTransform) -> CoordinateTransform:
        """The change that does this one first and ``other`` after it."""
        # A2 M2 A1 M1 = (A2 M2 A1 M2) (M2 M1)
        turned = MIRROR @ self.rotation @ MIRROR if other.mirrored else self.rotation
        shift = other.matrix @ self.shift_px + other.shift_px
        return CoordinateTransform(other.rotation @ turned, shift, self.mirrored != other.mirrored)

    def inverse(self) -> CoordinateTransform:
        """The change that undoes this one."""
        back = MIRROR @ self.rotation.T @ MIRROR if self.mirrored else self.rotation.T
        return CoordinateTransform(back, -self.matrix.T @ self.shift_px, self.mirrored)

    def scaled(self, factor: float) -> CoordinateTransform:
        """The same change in pixels of which there are ``factor`` times as many."""
        return CoordinateTransform(self.rotation, self.shift_px * factor, self.mirrored)


@dataclass(frozen=True)
class PoseErrors:
    """Errors of N images.

    Attributes
    ----------
    frobenius_sq : ndarray
        (N,) squared Frobenius norm of the difference of the rotation matrices, 0 to 8.
    degrees : ndarray
        (N,) angle of the rotation between them.
    shift_sq_px2 : ndarray
        (N,) squared length of the difference of the shifts.
    """

    frobenius_sq: FloatArray
    degrees: FloatArray
    shift_sq_px2: FloatArray

    @property
    def shift_px(self) -> FloatArray:
        """(N,) length of the difference of the shifts."""
        return np.sqrt(self.shift_sq_px2)

    def summary(self) -> dict[str, float]:
        """Mean and median of each error, by name."""
        columns = {
            "rotation_frobenius_sq": self.frobenius_sq,
            "rotation_deg": self.degrees,
            "shift_sq_px2": self.shift_sq_px2,
            "shift_px": self.shift_px,
        }
        return {
            f"{kind}_{name}": float(value(values))
            for name, values in columns.items()
            for kind, value in (("mean", np.mean), ("median", np.median))
        }


def pose_errors(
    rotation: NDArray[np.floating],
    shift_px: NDArray[np.floating],
    reference_rotation: NDArray[np.floating],
    reference_shift_px: NDArray[np.floating],
) -> PoseErrors:
    """Errors of poses (N, 3, 3), (N, 2) against a reference in the same frame."""
    _check(rotation, shift_px, reference_rotation, reference_shift_px)
    difference = np.asarray(rotation, np.float64) - np.asarray(reference_rotation, np.float64)
    squared = np.square(difference).sum(axis=(1, 2))
    moved = np.asarray(shift_px, np.float64) - np.asarray(reference_shift_px, np.float64)
    # |R - Q|² = 8 sin²(θ / 2): exact for small angles, where the trace has lost its digits.
    degrees = np.degrees(2.0 * np.arcsin(np.sqrt(np.clip(squared / 8.0, 0.0, 1.0))))
    return PoseErrors(squared, degrees, np.square(moved).sum(axis=1))


@dataclass(frozen=True)
class PoseAlignment:
    """A global alignment and what is left after it.

    Attributes
    ----------
    change : CoordinateTransform
        From the frame of the poses to that of the reference.
    errors : PoseErrors
        After it.
    median_deg_other_hand : float or None
        Median rotation error of the other hand at its own best alignment; None when only one was tried.
    """

    change: CoordinateTransform
    errors: PoseErrors
    median_deg_other_hand: float | None


def align_poses(
    rotation: NDArray[np.floating],
    shift_px: NDArray[np.floating],
    reference_rotation: NDArray[np.floating],
    reference_shift_px: NDArray[np.floating],
    both_hands: bool = True,
) -> PoseAlignment:
    """Bring poses into the frame of a reference, and measure what is left.

    The rotation between the frames is the one that most images agree on: each of some images proposes the rotation
    that would make it right, the proposal with the least truncated deviation over all images is kept, and improved to
    the median rotation of the images near it. Lost images have no say. The shift follows by least squares of absolute
    residuals over the images whose rotations agree.

    Parameters
    ----------
    rotation, reference_rotation : ndarray
        (N, 3, 3) of the same images in the same order.
    shift_px, reference_shift_px : ndarray
        (N, 2) in the same pixels.
    both_hands : bool
        Try the mirrored frame too, and take the better one.

    Returns
    -------
    PoseAlignment
    """
    _check(rotation, shift_px, reference_rotation, reference_shift_px)
    ours, theirs = np.asarray(rotation, np.float64), np.asarray(reference_rotation, np.float64)
    found = [_rotation_between(ours, theirs)]
    if both_hands:
        found.append(_rotation_between(MIRROR @ ours @ MIRROR, theirs))
    mirrored = len(found) == 2 and found[1][1] < found[0][1]
    changes = [CoordinateTransform(matrix, np.zeros(3), bool(hand)) for hand, (matrix, _) in enumerate(found)]
    chosen = changes[mirrored]
    turned, ours_px = chosen.poses(ours, shift_px)
    theirs_px = np.asarray(reference_shift_px, np.float64)
    degrees = pose_errors(turned, ours_px, theirs, theirs_px).degrees
    agreeing = np.flatnonzero(_agreeing(degrees))
    agreeing = agreeing[_spread(len(agreeing), MOST_AVERAGED)]
    change = CoordinateTransform(chosen.rotation, _shift_between(turned, ours_px - theirs_px, agreeing), mirrored)
    errors = pose_errors(*change.poses(ours, shift_px), theirs, theirs_px)
    other = None
    if both_hands:
        elsewhere = changes[not mirrored].poses(ours, shift_px)
        other = float(np.median(pose_errors(*elsewhere, theirs, theirs_px).degrees))
    return PoseAlignment(change, errors, other)


def _agreeing(degrees: FloatArray) -> NDArray[np.bool_]:
    """Images whose rotations agree; all of them when none does, so that there is an answer."""
    found = degrees < LOST_DEG
    if not found.any():
        return np.ones(len(degrees), np.bool_)
    return degrees <= 3.0 * max(float(np.median(degrees[found])), 1e-6)


def _check(*poses: NDArray[np.floating]) -> None:
    n = len(poses[0])
    for name, given, shape in zip(
        ("rotation", "shift_px", "reference_rotation", "reference_shift_px"),
        poses,
        ((n, 3, 3), (n, 2), (n, 3, 3), (n, 2)),
        strict=True,
    ):
        if given.shape != shape or n == 0:
            raise ValueError(f"{name} must have the shape {shape} of at least one image, got {given.shape}")


def _rotation_between(ours: FloatArray, theirs: FloatArray) -> tuple[FloatArray, float]:
    """A with ours Aᵀ ≈ theirs, and the mean truncated angle (radians) that is left."""
    proposals = np.swapaxes(theirs, 1, 2) @ ours
    lost = np.radians(LOST_DEG)
    judges = proposals[_spread(len(proposals), JUDGES)]
    candidates = proposals[_spread(len(proposals), CANDIDATES)]
    trace = candidates.reshape(-1, 9) @ judges.reshape(-1, 9).T
    angle = np.arccos(np.clip((trace - 1.0) / 2.0, -1.0, 1.0))
    proposals = proposals[_spread(len(proposals), MOST_AVERAGED)]
    best = candidates[int(np.argmin(np.minimum(angle, lost).mean(axis=1)))]
    for _ in range(ITERATIONS):  # Weiszfeld's median, in the tangent space of the present estimate
        vector = Rotation.from_matrix(best.T @ proposals).as_rotvec()
        length = np.linalg.norm(vector, axis=1)
        weight = np.where(length < lost, 1.0 / np.maximum(length, 1e-9), 0.0)
        step = (weight[:, None] * vector).sum(axis=0) / max(float(weight.sum()), 1e-30)
        best = best @ Rotation.from_rotvec(step).as_matrix()
        if np.linalg.norm(step) < 1e-9:
            break
    length = np.linalg.norm(Rotation.from_matrix(best.T @ proposals).as_rotvec(), axis=1)
    return best, float(np.minimum(length, lost).mean())


def _shift_between(turned: FloatArray, difference_px: FloatArray, use: NDArray[np.int64]) -> FloatArray:
    """(3,) s with (R' s)[:2] ≈ difference (N, 2) over the images ``use``, by reweighted least squares."""
    planes, wanted = turned[use][:, :2], difference_px[use]
    weight = np.ones(len(planes))
    shift = np.zeros(3)
    for _ in range(ITERATIONS):
        normal = np.einsum("n,nij,nik->jk", weight, planes, planes)
        right = np.einsum("n,nij,ni->j", weight, planes, wanted)
        # A single image says nothing of the shift along its view: the least one is taken.
        improved = np.linalg.lstsq(normal, right, rcond=1e-9)[0]
        residual = np.linalg.norm(wanted - planes @ improved, axis=1)
        weight = 1.0 / np.maximum(residual, 1e-6 + 0.01 * float(np.median(residual)))
        settled = np.linalg.norm(improved - shift) < 1e-9
        shift = improved
        if settled:
            break
    return np.asarray(shift, np.float64)


def _spread(n: int, most: int) -> NDArray[np.int64]:
    """At most ``most`` of n rows, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))

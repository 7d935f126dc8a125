"""Errors of poses against a reference, once the coordinates of their models have been brought together.

Ab initio poses refer to coordinates of their own: rotated, shifted and perhaps mirrored against any other. The global
alignment finds the :class:`~cryodrgn_ext.pose.coordinate_transform.CoordinateTransform` between two sets of poses, and
errors are measured after it (Zhong 2022, 5.6.4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.pose.coordinate_transform import MIRROR, CoordinateTransform, FloatArray, float64_arrays

#: Images tried as the one that gives the rotation between the coordinates, and images that judge each of them.
CANDIDATES, JUDGES = 256, 4096
#: Images that the median rotation and the shift are taken over, however many there are.
MOST_AVERAGED = 100_000
#: Disagreement beyond which an image counts as lost, however far it is off.
LOST_DEG = 30.0
ITERATIONS = 50


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


def pose_errors(poses: Poses, reference: Poses) -> PoseErrors:
    """Errors of poses (N,) against a reference in the same coordinates."""
    _check(poses, reference)
    return _errors(*float64_arrays(poses), *float64_arrays(reference))


def _errors(rotation: FloatArray, shift_px: FloatArray, other: FloatArray, other_px: FloatArray) -> PoseErrors:
    squared = np.square(rotation - other).sum(axis=(1, 2))
    # |R - Q|² = 8 sin²(θ / 2): exact for small angles, where the trace has lost its digits.
    degrees = np.degrees(2.0 * np.arcsin(np.sqrt(np.clip(squared / 8.0, 0.0, 1.0))))
    return PoseErrors(squared, degrees, np.square(shift_px - other_px).sum(axis=1))


@dataclass(frozen=True)
class PoseAlignment:
    """A global alignment and what is left after it.

    Attributes
    ----------
    transform : CoordinateTransform
        From the coordinates of the poses to those of the reference.
    errors : PoseErrors
        After it.
    """

    transform: CoordinateTransform
    errors: PoseErrors


def align_poses(poses: Poses, reference: Poses, both_hands: bool = True) -> PoseAlignment:
    """Bring poses into the coordinates of a reference, and measure what is left.

    The rotation between them is the one that most images agree on: each of some images proposes the rotation that
    would make it right, the proposal with the least truncated deviation over all images is kept, and improved to the
    median rotation of the images near it. Lost images have no say. The shift follows by least squares of absolute
    residuals over the images whose rotations agree.

    Parameters
    ----------
    poses, reference : Poses
        Of the same N images in the same order, shifts in the same unit.
    both_hands : bool
        Try the mirrored coordinates too, and take the better ones.

    Returns
    -------
    PoseAlignment
    """
    _check(poses, reference)
    (ours, given_px), (theirs, theirs_px) = float64_arrays(poses), float64_arrays(reference)
    found = [_rotation_between(ours, theirs)]
    if both_hands:
        found.append(_rotation_between(MIRROR @ ours @ MIRROR, theirs))
    mirrored = len(found) == 2 and found[1][1] < found[0][1]
    transforms = [CoordinateTransform(matrix, np.zeros(3), bool(hand)) for hand, (matrix, _) in enumerate(found)]
    chosen = transforms[mirrored]
    rotated, ours_px = chosen.arrays(ours, given_px)
    degrees = _errors(rotated, ours_px, theirs, theirs_px).degrees
    agreeing = np.flatnonzero(_agreeing(degrees))
    agreeing = agreeing[_spread(len(agreeing), MOST_AVERAGED)]
    shift = _shift_between(rotated, ours_px - theirs_px, agreeing)
    transform = CoordinateTransform(chosen.rotation, shift, mirrored)
    errors = _errors(*transform.arrays(ours, given_px), theirs, theirs_px)
    return PoseAlignment(transform, errors)


def _agreeing(degrees: FloatArray) -> NDArray[np.bool_]:
    """Images whose rotations agree; all of them when none does, so that there is an answer."""
    found = degrees < LOST_DEG
    if not found.any():
        return np.ones(len(degrees), np.bool_)
    return degrees <= 3.0 * max(float(np.median(degrees[found])), 1e-6)


def _check(poses: Poses, reference: Poses) -> None:
    shapes = tuple(poses.rotation.shape), tuple(reference.rotation.shape)
    if len(shapes[0]) != 3 or shapes[0] != shapes[1] or not len(poses):
        raise ValueError(f"poses of the same images, at least one, are needed; rotations have shapes {shapes}")


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


def _shift_between(rotated: FloatArray, difference_px: FloatArray, use: NDArray[np.int64]) -> FloatArray:
    """(3,) s with (R' s)[:2] ≈ difference (N, 2) over the images ``use``, by reweighted least squares."""
    planes, wanted = rotated[use][:, :2], difference_px[use]
    weight = np.ones(len(planes))
    shift = np.zeros(3)
    for _ in range(ITERATIONS):
        normal = np.einsum("n,nij,nik->jk", weight, planes, planes)
        right = np.einsum("n,nij,ni->j", weight, planes, wanted)
        # A single image says nothing of the shift along its view: the least one is taken.
        improved = np.linalg.lstsq(normal, right, rcond=1e-9)[0]
        residual = np.linalg.norm(wanted - planes @ improved, axis=1)
        weight = 1.0 / np.maximum(residual, 1e-6 + 0.01 * float(np.median(residual)))
        converged = np.linalg.norm(improved - shift) < 1e-9
        shift = improved
        if converged:
            break
    return np.asarray(shift, np.float64)


def _spread(n: int, most: int) -> NDArray[np.int64]:
    """At most ``most`` of n rows, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))

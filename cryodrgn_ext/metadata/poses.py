"""RELION's Euler angles and CryoSPARC's rotation vectors to rotation matrices and back, and origins to shifts.

Conventions (the same everywhere in this package): the rotation R maps model to image coordinates, a model
point p lands on the image at ``(R p)[:2]``; the shift t (x, y) is the displacement of the particle from the box
centre, so RELION's origin is -t. R is RELION's matrix A(rot, tilt, psi) of ``Euler_angles2matrix``:
``[Rz(rot) Ry(tilt) Rz(psi)]^T`` with active rotations.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

FloatArray: TypeAlias = npt.NDArray[np.float64]

_CHUNK = 1 << 18


def rotation_from_euler(euler_deg: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """Return rotation matrices R from RELION's (rot, tilt, psi).

    Parameters
    ----------
    euler_deg : (N, 3) array
        rlnAngleRot, rlnAngleTilt, rlnAnglePsi in degrees.

    Returns
    -------
    (N, 3, 3) float64
    """
    euler_deg = np.asarray(euler_deg, np.float64).reshape(-1, 3)
    out = np.empty((len(euler_deg), 3, 3))
    for begin in range(0, len(euler_deg), _CHUNK):  # scipy holds several copies of what it is given
        part = slice(begin, begin + _CHUNK)
        active = Rotation.from_euler("ZYZ", euler_deg[part], degrees=True).as_matrix()
        out[part] = np.swapaxes(active, -1, -2)
    return out


def euler_from_rotation(rotation: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """Return RELION's (rot, tilt, psi) of rotation matrices R.

    The tilt lies in 0..180. At tilt 0 and 180, where only rot + psi or rot - psi is defined, psi is 0.

    Parameters
    ----------
    rotation : (N, 3, 3) array

    Returns
    -------
    (N, 3) float64
        Degrees, rot and psi in -180..180.
    """
    rotation = np.asarray(rotation, np.float64).reshape(-1, 3, 3)
    out = np.empty((len(rotation), 3))
    for begin in range(0, len(rotation), _CHUNK):
        part = rotation[begin : begin + _CHUNK]
        # R = Rz(-psi) Ry(-tilt) Rz(-rot), so the third column holds psi and the third row holds rot. The sine of the
        # tilt comes from hypot, not from acos of R33, which loses half of the digits near tilt 0 and 180.
        sine = np.hypot(part[:, 0, 2], part[:, 1, 2])
        tilt = np.arctan2(sine, part[:, 2, 2])
        psi = np.arctan2(part[:, 1, 2], -part[:, 0, 2])
        # rot from the rows turned back by psi: exact at every tilt, so nothing special happens near the poles.
        psi[sine < 1e-9] = 0.0
        cosine, minus_sine = np.cos(psi), np.sin(psi)
        back = cosine[:, None] * part[:, 1, :2] + minus_sine[:, None] * part[:, 0, :2]
        rot = np.arctan2(-back[:, 0], back[:, 1])
        out[begin : begin + _CHUNK] = np.degrees(np.stack([rot, tilt, psi], axis=1))
    return out


def rotation_from_pose(pose: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """Return rotation matrices R from CryoSPARC's poses.

    RELION's matrix A of the same particle is ``exp([pose]x)^T``, so R is that.

    Parameters
    ----------
    pose : (N, 3) array
        alignments3D/pose: rotation vectors (axis times angle in radians).

    Returns
    -------
    (N, 3, 3) float64
    """
    pose = np.asarray(pose, np.float64).reshape(-1, 3)
    out = np.empty((len(pose), 3, 3))
    for begin in range(0, len(pose), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        out[part] = np.swapaxes(Rotation.from_rotvec(pose[part]).as_matrix(), -1, -2)
    return out


def pose_from_rotation(rotation: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """Return CryoSPARC's poses (N, 3), of length 0..π, of rotation matrices R (N, 3, 3)."""
    rotation = np.asarray(rotation, np.float64).reshape(-1, 3, 3)
    out = np.empty((len(rotation), 3))
    for begin in range(0, len(rotation), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        out[part] = Rotation.from_matrix(np.swapaxes(rotation[part], -1, -2)).as_rotvec()
    return out


def rotation_faults(rotation: npt.NDArray[np.floating[Any]], tolerance: float = 1e-3) -> npt.NDArray[np.int64]:
    """Return the indices of matrices that are not finite, not orthogonal within ``tolerance``, or mirrored.

    Parameters
    ----------
    rotation : (N, 3, 3) array
    tolerance : float
        Largest allowed deviation of any element of R R^T from the identity.
    """
    rotation = np.asarray(rotation, np.float64)
    product = rotation @ np.swapaxes(rotation, -1, -2)
    deviation = np.abs(product - np.eye(3)).max(axis=(1, 2))
    with np.errstate(invalid="ignore"):
        good = (deviation <= tolerance) & (np.linalg.det(rotation) > 0)  # NaN compares false
    return np.flatnonzero(~good)

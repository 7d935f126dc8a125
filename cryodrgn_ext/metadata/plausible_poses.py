"""Poses that can be right, but look as if they were of another unit or of other images: said, not refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.metadata.particle_ctf import Float64Array

#: Fewest particles of which the angles tell their unit: so many never lie within one sixtieth of the circle by chance.
_FEWEST = 10
#: Shifts beyond this fraction of the box take a part of most particles out of their images.
_FAR = 0.25
_WORTH_A_WORD = 0.05
#: Degrees, and Å, in which poses of repeated rows agree.
_SAME_POSE = 1e-3


def pose_notes(
    path: Path,
    euler_deg: Float64Array,
    shift_A: Float64Array,
    box_A: Float64Array,
    image_hash: npt.NDArray[np.uint64],
) -> tuple[str, ...]:
    """Return what a user should check of orientations and shifts, one sentence each.

    Parameters
    ----------
    path : Path
        The file, for the sentences.
    euler_deg : (N, 3)
        NaN without orientations.
    shift_A : (N, 2)
    box_A : (N,)
        Width of the images; 0 where it is not known.
    image_hash : (N,)
        Equal for rows of one image.
    """
    return (
        *(_angle_notes(path, euler_deg) or _unaligned_notes(path, euler_deg, shift_A)),
        *_shift_notes(path, shift_A, box_A),
        *_repeated_notes(path, euler_deg, shift_A, image_hash),
    )


def _repeated_notes(
    path: Path, euler_deg: Float64Array, shift_A: Float64Array, image_hash: npt.NDArray[np.uint64]
) -> tuple[str, ...]:
    """Say which rows repeat image and pose of another: copies of symmetry expansion differ in their poses."""
    if not np.isfinite(euler_deg).all():
        return ()  # without orientations copies look alike
    order = np.argsort(image_hash, kind="stable")
    again = image_hash[order[1:]] == image_hash[order[:-1]]
    one, other = order[:-1][again], order[1:][again]
    poses = np.column_stack([euler_deg, shift_A])
    same = np.flatnonzero(np.abs(poses[one] - poses[other]).max(axis=1, initial=0.0) < _SAME_POSE)
    if not len(same):
        return ()
    row = int(other[same[0]])
    return (
        f"{path}: {len(same)} of {len(image_hash)} rows repeat image and pose of another row, row {row + 1} those of "
        f"row {int(one[same[0]]) + 1}: these particles count twice; remove one of each",
    )


def _angle_notes(path: Path, euler_deg: Float64Array) -> tuple[str, ...]:
    n = len(euler_deg)
    if n < 2 or not np.isfinite(euler_deg).all():
        return ()
    if np.all(euler_deg == euler_deg[0]):
        return (
            f"{path}: all {n} orientations are the same ({', '.join(f'{one:g}' for one in euler_deg[0])}), as where "
            "none were ever found: no map can be made with them",
        )
    if n >= _FEWEST and not euler_deg[:, :2].any():
        return (
            f"{path}: rot and tilt of all {n} particles are 0, as after a 2D classification: these are no orientations "
            "for a map; refine in 3D, or use abinit",
        )
    if n >= _FEWEST and np.abs(euler_deg).max() <= 2 * np.pi:
        return (
            f"{path}: no angle is above {np.abs(euler_deg).max():.3g} degrees, so they may be in radians: RELION's are "
            "in degrees, and so are they taken here",
        )
    return ()


def _unaligned_notes(path: Path, euler_deg: Float64Array, shift_A: Float64Array) -> tuple[str, ...]:
    """Say which of the rows have no pose: programs leave 0 in all of it where they aligned nothing."""
    rows = np.flatnonzero(np.abs(np.column_stack([euler_deg, shift_A])).max(axis=1, initial=0.0) == 0)
    if len(rows) < 2:  # one such pose may have been found
        return ()
    return (
        f"{path}: {len(rows)} of {len(euler_deg)} particles have rotation 0 and shift 0, the first in row "
        f"{rows[0] + 1}, as programs write for particles that they did not align: they are used as if these were "
        "their poses; take them out",
    )


def _shift_notes(path: Path, shift_A: Float64Array, box_A: Float64Array) -> tuple[str, ...]:
    far_A = np.abs(shift_A).max(axis=1, initial=0.0)
    known = box_A > 0
    outside = known & (far_A > 0.5 * box_A)
    if outside.any():
        row = int(np.argmax(np.where(outside, far_A, 0.0)))
        return (
            f"{path}: {int(outside.sum())} of {len(far_A)} particles are shifted out of their images (up to "
            f"{far_A[row]:.0f} Å, in one {box_A[row]:.0f} Å wide): extract them anew around their centres, "
            "or check that shifts are in Å and of these images",
        )
    many = int(np.count_nonzero(known & (far_A > _FAR * box_A)))
    if many > _WORTH_A_WORD * len(far_A):
        return (
            f"{path}: {many} of {len(far_A)} particles lie more than a quarter of the image off its centre (up to "
            f"{far_A.max():.0f} Å), so that a part of them may be cut off: extract them anew around their centres",
        )
    return ()

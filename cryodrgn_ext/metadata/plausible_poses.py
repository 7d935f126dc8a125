"""Poses that can be right, but look as if they were of another unit or of other images: said, not refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cryodrgn_ext.metadata.particle_ctf import Float64Array

#: Fewest particles of which the angles tell their unit: so many never lie within one sixtieth of the circle by chance.
_FEWEST = 10
#: Shifts beyond this fraction of the box take a part of most particles out of their images.
_FAR = 0.25
_WORTH_A_WORD = 0.05


def pose_notes(path: Path, euler_deg: Float64Array, shift_A: Float64Array, box_A: Float64Array) -> tuple[str, ...]:
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
    """
    return (*_angle_notes(path, euler_deg), *_shift_notes(path, shift_A, box_A))


def _angle_notes(path: Path, euler_deg: Float64Array) -> tuple[str, ...]:
    n = len(euler_deg)
    if n < 2 or not np.isfinite(euler_deg).all():
        return ()
    if np.all(euler_deg == euler_deg[0]):
        return (
            f"{path}: all {n} orientations are the same ({', '.join(f'{one:g}' for one in euler_deg[0])}), as where "
            "none were ever found: no map can be made with them",
        )
    if n >= _FEWEST and np.abs(euler_deg).max() <= 2 * np.pi:
        return (
            f"{path}: no angle is above {np.abs(euler_deg).max():.3g} degrees, so they may be in radians: RELION's are "
            "in degrees, and so are they taken here",
        )
    return ()


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

"""Columns that tell whether rows that were joined by the names of their images are the same particles.

Names repeat: two restacked sets are both called particles.mrcs and count from 1. Where positions on micrographs are
unknown, the micrographs' names are held against each other, and what a particle has of its own. Defocus and poses may
have changed since; but when they are those of other rows of the reference, the particles are those other rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from cryodrgn_ext.metadata.micrograph_positions import one_to_one, plain_micrograph_name
from cryodrgn_ext.metadata.particle_ctf import Float64Array
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.particle_source import Rows

# Two files that say the same agree within 1, in these units: float32 in a .cs, six decimals in a STAR file.
_DEFOCUS_A, _ANGLE_RAD = 1e-2, 1e-5
_ROTATION, _SHIFT_A = 1e-5, 1e-3
_FEWEST_FOR_A_CORRELATION = 30


def contradiction(particles: ParticleSet, reference: ParticleSet, rows: Rows, what: str) -> str | None:
    """Say why rows joined by the names of images cannot be the same particles; None where nothing speaks against it.

    Parameters
    ----------
    particles, reference : ParticleSet
    rows : (N,) int64
        The row of the reference that each particle was taken for.
    what : str
        By what they were joined, for the message.
    """
    for names, wrong in (
        ("micrographs are others", _other_micrographs(particles, reference, rows)),
        ("defocus is that of another row", _of_other_rows(_defocus(particles), _defocus(reference), rows)),
        ("pose is that of another row", _of_other_rows(_poses(particles), _poses(reference), rows)),
    ):
        if wrong is not None and wrong.any():
            row = int(np.argmax(wrong))
            return (
                f"{particles.describe_row(row)}, is by {what} the same as {reference.describe_row(int(rows[row]))}, "
                f"but their {names} ({int(np.count_nonzero(wrong))} of {particles.n} such rows): they are different "
                "particles"
            )
    return None


def unrelated_notes(particles: ParticleSet, reference: ParticleSet, rows: Rows) -> tuple[str, ...]:
    """Say when the defocus of the same N rows in two files has nothing in common, as that of other images has not.

    However it was measured or refined since, a defocus follows that of its image.
    """
    mine, theirs = ((one.defocus_u_A + one.defocus_v_A) / 2 for one in (particles.ctf, reference.ctf))
    theirs = theirs[rows]
    if len(mine) < _FEWEST_FOR_A_CORRELATION or min(np.ptp(mine), np.ptp(theirs)) <= _DEFOCUS_A:
        return ()
    correlation = float(np.corrcoef(mine, theirs)[0, 1])
    if correlation >= 3 / np.sqrt(len(mine)):  # three standard errors of a correlation that is 0
        return ()
    return (
        f"the names of images agree, but the defocus of {particles.path} has nothing in common with that of "
        f"{reference.path} (correlation {correlation:.2f} over {len(mine)} particles): check that they are of the same "
        "data",
    )


def _other_micrographs(particles: ParticleSet, reference: ParticleSet, rows: Rows) -> npt.NDArray[np.bool_] | None:
    mine, theirs = particles.source.micrographs(), reference.source.micrographs()
    if mine is None or theirs is None:
        return None
    numbers = mine[1][particles.row_id], theirs[1][reference.row_id][rows]
    short = [np.array([plain_micrograph_name(name) for name in one[0]] or [""]) for one in (mine, theirs)]
    different = np.asarray(short[0][numbers[0]] != short[1][numbers[1]])
    # Renamed micrographs are no others, as long as every one has one name in each file.
    return None if not different.any() or bool(one_to_one(*numbers).all()) else different


def _defocus(particles: ParticleSet) -> Float64Array:
    ctf = particles.ctf
    return np.column_stack(
        [
            ctf.defocus_u_A / _DEFOCUS_A,
            ctf.defocus_v_A / _DEFOCUS_A,
            np.remainder(ctf.defocus_angle_rad, np.pi) / _ANGLE_RAD,
        ]
    )


def _poses(particles: ParticleSet) -> Float64Array | None:
    if not particles.has_poses:
        return None
    return np.column_stack([particles.rotation.reshape(-1, 9) / _ROTATION, particles.shift_A / _SHIFT_A])


def _of_other_rows(mine: Float64Array | None, theirs: Float64Array | None, rows: Rows) -> npt.NDArray[np.bool_] | None:
    """Return (N,) which particles have other values than their row, but those of another; None where few have.

    What was measured anew equals the old values of no other row, but by chance.
    """
    if mine is None or theirs is None:
        return None
    differ = np.abs(mine - theirs[rows]).max(axis=1) > 1.0
    if not differ.any():
        return None
    distance, _ = cKDTree(theirs).query(mine[differ], p=np.inf, distance_upper_bound=1.0)
    elsewhere = np.zeros(len(mine), bool)
    elsewhere[differ] = np.isfinite(distance)
    return elsewhere if 2 * int(elsewhere.sum()) > int(differ.sum()) else None

"""Origins of particles that were extracted anew around another centre, as their former images count them.

A particle lies at its box's centre on the micrograph plus its displacement in the image. An extraction that recentres
moves the box and leaves a smaller displacement: beside the former image the new origin alone is wrong by the move.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryodrgn_ext.metadata.micrograph_positions import compare_positions
from cryodrgn_ext.metadata.particle_ctf import Float64Array
from cryodrgn_ext.metadata.particle_set import ParticleSet

#: Programs round positions to whole pixels: up to this the boxes may be the same.
ROUNDING_PX = 0.5


@dataclass(frozen=True)
class MovedBoxes:
    """How N boxes lie on micrographs, against the boxes of the same particles in another file.

    Attributes
    ----------
    shift_A : (N, 2) float64 or None
        What displacements in the new images must be raised by to hold in the former ones; None where nothing moved, or
        the direction is not known.
    notes : tuple of str
        What a user should know, one sentence each.
    """

    shift_A: Float64Array | None = None
    notes: tuple[str, ...] = ()


def moved_boxes(particles: ParticleSet, former: ParticleSet) -> MovedBoxes:
    """Compare the boxes of ``particles`` with those of ``former``, the same N particles.

    Images of one name are the same image, whatever their positions say.
    """
    found = [one.source.positions() for one in (particles, former)]
    if found[0] is None or found[1] is None:
        return MovedBoxes()
    mine, theirs = found[0].subset(particles.row_id), found[1].subset(former.row_id)
    move_px = mine.xy_px - theirs.xy_px
    moved = (particles.image_hash != former.image_hash) & (np.abs(move_px).max(axis=1, initial=0) > ROUNDING_PX)
    if not moved.any() or compare_positions(mine, theirs).note is not None:  # binned or mirrored: no moves
        return MovedBoxes()
    largest = float(np.linalg.norm(move_px[moved], axis=1).max())
    what = (
        f"{int(np.count_nonzero(moved))} of {particles.n} particles of {particles.path} were extracted anew around "
        f"other centres, up to {largest:.1f} px away"
    )
    if {particles.source.format, former.source.format} != {"star"}:
        return MovedBoxes(None, (
            f"{what}: their shifts belong to the new images and are off in those of {former.path} by as much, since "
            "how CryoSPARC counts y on micrographs and in images has not been shown; refine locally from there",
        ))  # fmt: skip
    pixel_A = former.source.micrograph_pixel_A(former.row_id)
    shift_A = np.where(moved[:, None], move_px * pixel_A[:, None], 0.0)
    return MovedBoxes(shift_A, (f"{what}: their origins are counted from the centres in {former.path}",))

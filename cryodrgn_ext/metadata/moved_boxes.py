"""Origins of particles that were extracted anew around another centre, as their former images count them.

A particle lies at its box's centre on the micrograph plus its displacement in the image. An extraction that recentres
moves the box and leaves a smaller displacement: beside the former image the new origin alone is wrong by the move.

A subtraction of signal that recentres (relion_particle_subtract --recenter_on_mask, --center_x) leaves the positions on
the micrographs as they were, and nothing in its file says where the new centre is: its origins, fractions of a pixel at
first, cannot be counted from the former centres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryodrgn_ext.metadata.image_names import image_hashes
from cryodrgn_ext.metadata.micrograph_positions import compare_positions
from cryodrgn_ext.metadata.particle_ctf import Float64Array
from cryodrgn_ext.metadata.particle_set import ParticleSet

#: Programs round positions to whole pixels: up to this the boxes may be the same.
ROUNDING_PX = 0.5
#: Differences of shifts that are so large, as a share of what those of unrelated shifts are, mean other centres.
UNRELATED = 0.7
LEAST_PARTICLES = 8  # a common displacement explains the shifts of two


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
    poses_hold : bool
        Whether the new poses say anything of the former images.
    """

    shift_A: Float64Array | None = None
    notes: tuple[str, ...] = ()
    poses_hold: bool = True


def moved_boxes(particles: ParticleSet, former: ParticleSet) -> MovedBoxes:
    """Compare the boxes of ``particles`` with those of ``former``, the same N particles.

    Images of one name are the same image, whatever their positions say.
    """
    if _recentred(particles, former):
        return MovedBoxes(notes=(
            f"the images of {particles.path} were recentred when they were made from those of {former.path}, by which "
            "their origins do not tell: the poses of the latter are kept",
        ), poses_hold=False)  # fmt: skip
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


def _recentred(particles: ParticleSet, former: ParticleSet) -> bool:
    """Whether the shifts of images made from ``former`` are none of those of ``former`` any more.

    Shifts of one particle in two refinements agree, but for a common displacement of the model.
    """
    made_from = particles.source.original_images()
    if made_from is None or not former.has_poses or particles.n < LEAST_PARTICLES:
        return False
    originals = image_hashes(made_from)[particles.row_id]
    if not np.array_equal(originals, former.image_hash) or np.any(particles.image_hash == former.image_hash):
        return False
    pixel_A = former.pixel_size_A[:, None]
    change_px = (particles.shift_A - former.shift_A) / pixel_A
    seen = former.rotation[:, :2].reshape(-1, 3)  # of a displacement of the model, in x and y of every image
    displacement = np.linalg.lstsq(seen, change_px.reshape(-1), rcond=None)[0]
    rest_px = change_px - (seen @ displacement).reshape(-1, 2)
    typical = [float(np.median(np.linalg.norm(one, axis=1))) for one in
               (rest_px, particles.shift_A / pixel_A, former.shift_A / pixel_A)]  # fmt: skip
    return typical[0] > 1.0 and typical[0] > UNRELATED * float(np.hypot(typical[1], typical[2]))

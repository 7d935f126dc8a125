"""Images to which their CTF was applied already: used where that is possible, refused by name where it is not."""

from __future__ import annotations

import numpy as np

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.optics import PREMULTIPLIED
from cryodrgn_ext.metadata.particle_set import ParticleSet

FLIPPED = "rlnCtfDataArePhaseFlipped"


def is_premultiplied(particles: ParticleSet) -> bool:
    """Whether images of some particles were multiplied by their CTF."""
    groups = np.array([group.ctf_premultiplied for group in particles.optics], bool)
    return bool(groups[particles.optics_index].any())


def refuse_premultiplied(particles: ParticleSet, program: str) -> None:
    """Raise InputError when images are premultiplied, which files for ``program`` cannot say."""
    if is_premultiplied(particles):
        raise InputError(
            f"{particles.path}: its images are premultiplied by their CTF ({PREMULTIPLIED} 1), which files for "
            f"{program} cannot say, so that it would apply the CTF a second time: extract the particles without, or "
            "stay with STAR files"
        )


def refuse_phase_flipped(particles: ParticleSet) -> None:
    """Raise InputError when a STAR file says that the phases of its images were flipped."""
    if particles.source.format != "star":
        return
    for table in particles.star.blocks.values():
        if FLIPPED in table and np.any(table.floats(FLIPPED) != 0):
            raise InputError(
                f"{particles.path}: phases of its images were flipped ({FLIPPED} 1 in data_{table.name}), so that the "
                "CTF would be applied with wrong signs: extract the particles without flipping phases"
            )

"""References in the sign of the particles, where the maps of a job have another.

Maps come out white (density positive) whatever the images look like. RELION knows no sign: it compares a reference with
images as they are, so particles that are dark in their images need a dark reference, and what it then reconstructs of
them is dark. CryoSPARC reads the sign of the images from blob/sign, and its maps are white.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from cryodrgn_ext.images.map_origin import read_origin
from cryodrgn_ext.images.maps import read_map, write_map
from cryodrgn_ext.metadata.particles import ParticleSet

MAP_NAME, MAP_FOR_RELION = "map.mrc", "map_for_relion.mrc"


def write_maps_for_relion(folders: Iterable[Path], data_sign: int, returned: str) -> None:
    """Write map_for_relion.mrc beside every map.mrc, or remove it where the map itself has the particles' sign.

    Parameters
    ----------
    folders : iterable of Path
        Those without a map.mrc are passed over.
    data_sign : int
        -1 when particles are dark in their images.
    returned : str
        Name of the particles that the job returns, or that it was given: those of a .cs need no such map.
    """
    for folder in folders:
        path = folder / MAP_FOR_RELION
        if data_sign > 0 or returned.endswith(".cs") or not (folder / MAP_NAME).is_file():
            path.unlink(missing_ok=True)
            continue
        volume = read_map(folder / MAP_NAME)
        origin = replace(read_origin(folder / MAP_NAME), done="times -1 for RELION")
        write_map(path, -volume.data, volume.pixel_size_A, origin)


def with_measured_sign(particles: ParticleSet, data_sign: int) -> ParticleSet:
    """Particles of which is known what their images say, so that a .cs made of them has the right blob/sign."""
    return replace(particles, source=particles.source.known_dark()) if data_sign < 0 else particles


def sign_sentences(particles: ParticleSet, data_sign: int, returned: str) -> tuple[str, ...]:
    """Say what a user of a suite must know when the maps have another sign than the images.

    Parameters
    ----------
    particles : ParticleSet
    data_sign : int
        -1 when they are dark in their images, by the images themselves or by what the user says.
    returned : str
        Name of the particles that the job returns.
    """
    dark = particles.source.dark_on_light(particles.row_id)
    if particles.source.format == "cs" and (dark > 0) != (data_sign < 0):
        look = "dark" if data_sign < 0 else "light"
        return (
            f"Warning: particles are {look} in their images, but blob/sign says otherwise in {particles.path} "
            f"({dark} of {particles.n} are -1): CryoSPARC would reconstruct them with the wrong sign; import them with "
            "the right one, or set --contrast if the images deceive.",
        )
    if data_sign > 0 or returned.endswith(".cs"):
        return ()
    return (
        "Note: particles are dark in their images, but maps are white: RELION, which knows no sign, needs references "
        f"as dark as the images, so give it {MAP_FOR_RELION} beside each map.mrc (other maps and volumes times -1), or "
        "invert the images first (relion_image_handler --multiply_constant -1). Masks and half-maps fit both.",
    )

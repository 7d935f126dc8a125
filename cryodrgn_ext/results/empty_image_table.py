"""empty_images.star: images that show no particle, with how probable that is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.durable_files import atomic_write_text
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.metadata.own_tables import own_star_text
from cryodrgn_ext.metadata.star import read_star
from cryodrgn_ext.validation.empty_images import Presence


def write_empty_images(path: Path, images: ParticleImages, found: Presence) -> None:
    """Write the images that show no particle as a STAR table, atomically; remove it where there are none."""
    rows = found.empty_rows
    if images.particles is None or not len(rows):
        path.unlink(missing_ok=True)
        return
    place = np.searchsorted(found.rows, rows)
    columns = {
        "rlnImageName": images.particles.image_name[rows],
        "cdxRow": rows + 1,
        "cdxParticleScale": found.scale[place],
        "cdxScaleError": found.error[place],
        "cdxEmptyProbability": found.empty[place],
    }
    atomic_write_text(path, own_star_text({"images": columns}))


def read_empty_images(path: Path) -> NDArray[np.int64]:
    """Rows (m,) of images that :func:`write_empty_images` listed; none where there is no list.

    Raises
    ------
    InputError
        When the file is damaged.
    """
    if not path.exists():
        return np.empty(0, np.int64)
    star = read_star(path)
    if "images" not in star.blocks or "cdxRow" not in star.blocks["images"]:
        raise InputError(f"{path} has no column cdxRow in data_images: restore it, or delete it and continue the job.")
    return np.asarray(star.blocks["images"].integers("cdxRow") - 1, np.int64)

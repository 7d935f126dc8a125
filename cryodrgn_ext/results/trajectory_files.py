"""Files of a trajectory beside its volumes: the particles nearest to each, and a script for ChimeraX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.trajectories import FrameParticles
from cryodrgn_ext.durable_files import atomic_write_text
from cryodrgn_ext.metadata.own_tables import own_star_text
from cryodrgn_ext.metadata.particles import ParticleSet

NEAREST_NAME = "nearest_particles.star"
SCRIPT_NAME = "trajectory.cxc"
MOVIE_NAME = "movie.gif"
FILM_NAME = "movie.mp4"


def write_nearest(directory: Path, particles: ParticleSet, rows: NDArray[np.int64], near: FrameParticles) -> None:
    """Write nearest_particles.star: frame, row of the input, identifier, image and distance in latent space.

    Parameters
    ----------
    directory : Path
    particles : ParticleSet
        All of the input.
    rows : ndarray
        (n,) rows of the particles that ``near`` counts.
    near : FrameParticles
    """
    frames, each = near.index.shape
    row = rows[near.index].ravel()
    columns = {
        "cdxFrame": np.repeat(np.arange(frames), each),
        "cdxRow": row,
        "cdxUid": particles.uid[row],
        "rlnImageName": particles.image_name[row],
        "cdxLatentDistance": [f"{distance:.6g}" for distance in near.distance.ravel()],
    }
    atomic_write_text(directory / NEAREST_NAME, own_star_text({"nearest_particles": columns}))


def write_chimerax_script(directory: Path, level: float, maps: str) -> None:
    """Write commands for ChimeraX, which runs a script in the script's own directory: all ``maps`` at one level."""
    atomic_write_text(
        directory / SCRIPT_NAME,
        "# The volumes of the trajectory as a series at one contour level: open this file in ChimeraX.\n"
        f"open {maps} vseries true\n"
        f"volume #1 style surface step 1 level {level:.6g}\n"
        "view\n"
        "vseries slider #1\n",
    )

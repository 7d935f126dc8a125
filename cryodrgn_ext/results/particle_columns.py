"""The numbers that the user's own file has for each particle, for the plots of a report."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.mollweide import mollweide
from cryodrgn_ext.analysis.shown_particles import IndexArray, ShownParticles
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.poses import euler_from_rotation

MOST_COLUMNS = 48
#: Axes of the map of viewing directions.
VIEWS = ("view, Mollweide x", "view, Mollweide y")


def shown_particles(
    particles: ParticleSet, index: IndexArray, rotation: NDArray[np.floating] | None = None
) -> ShownParticles:
    """Look up some particles: their rows, images, and every column of numbers that differ.

    Parameters
    ----------
    particles : ParticleSet
    index : ndarray
        (n,) positions in ``particles``, increasing.
    rotation : ndarray, optional
        (N, 3, 3) of all particles, where they were found later than the file was written; those of the file otherwise.

    Returns
    -------
    ShownParticles
        With where they were seen from, then columns named as in the user's file, no more than 48.
    """
    row = particles.row_id[index]
    columns: dict[str, NDArray[np.float64]] = {}
    if rotation is not None or particles.has_poses:
        angles = particles.euler_deg[index] if rotation is None else euler_from_rotation(rotation[index])
        columns = dict(zip(VIEWS, mollweide(angles[:, 0], angles[:, 1]).T, strict=True))
    most = MOST_COLUMNS + len(columns)
    for name, values in particles.source.numeric_columns(row):
        known = values[np.isfinite(values)]
        if len(known) and known.min() < known.max():
            columns[name] = values
        if len(columns) == most:
            break
    return ShownParticles(
        index, row + 1, columns, particles.stack_names, particles.stack_id[index].astype(np.int64),
        particles.stack_index[index] + 1,
    )  # fmt: skip

"""The user's particles with the poses that were found: every row and column as it was, poses and half-sets written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.metadata.cs import read_cs
from cryodrgn_ext.metadata.csg import write_csg
from cryodrgn_ext.metadata.particle_writing import write_particles_cs, write_particles_star
from cryodrgn_ext.metadata.particles import ParticleSet
from cryodrgn_ext.metadata.to_cryosparc import alignment_fields
from cryodrgn_ext.results.pose_table import PoseTable
from cryodrgn_ext.results.returned_particles import columns_of_ours

HALF_SET_COLUMN = "rlnRandomSubset"


def aligned_particles(particles: ParticleSet, poses: PoseTable) -> ParticleSet:
    """The particles with these poses and half-sets."""
    return replace(particles.with_poses(poses.rotation, poses.shift_A), half_set=poses.half_set)


def write_aligned_particles(
    path: Path, particles: ParticleSet, poses: PoseTable, columns: Mapping[str, NDArray[np.generic]]
) -> None:
    """Write all particles with their poses, as .star, or as .cs with the .csg that CryoSPARC imports.

    Parameters
    ----------
    path : Path
        Its suffix is the format.
    particles : ParticleSet
    poses : PoseTable
    columns : mapping
        Further columns (N,) of a STAR file.

    Raises
    ------
    InputError
        When it cannot be written.
    """
    aligned = aligned_particles(particles, poses)
    if path.suffix == ".cs":
        extra = alignment_fields(aligned) if particles.source.format == "cs" else None
        fields = write_particles_cs(aligned, path, extra)
        write_csg(path.with_suffix(".csg"), path, fields, aligned.n)
        return
    halves = {} if particles.source.format == "cs" else {HALF_SET_COLUMN: poses.half_set}
    ours = columns_of_ours(particles)
    write_particles_star(aligned, path, extra_columns={**halves, **columns}, dropped_columns=ours)


def alignment_columns(path: Path) -> dict[str, NDArray[np.generic]]:
    """Fields alignments3D/... that :func:`write_aligned_particles` wrote into a .cs; none of a STAR file."""
    if path.suffix != ".cs":
        return {}
    return {name: values for name, values in read_cs(path).columns.items() if name.startswith("alignments3D/")}

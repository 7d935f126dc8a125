"""Particles of a live job as a file and a ParticleSet, for everything here that works with files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.csg import write_csg
from cryodrgn_ext.metadata.particles import ParticleSet, read_particles
from cryosparc_jobs.client import load_output, project_directory
from cryosparc_jobs.parents import find_particles
from cryosparc_jobs.particles import write_particles


def fetch(cs: Any, *, project: str, particles: Any, path: str | Path) -> ParticleSet:
    """Write the particles of a job, with everything that they have from jobs before it, as one .cs and its .csg.

    Parameters
    ----------
    cs : cryosparc.tools.CryoSPARC
    project : str
    particles : str, job, or pair
        As for :func:`cryosparc_jobs.train`.
    path : path-like
        The new .cs file. Its stacks are written with absolute paths, so that they are found from anywhere.

    Returns
    -------
    ParticleSet
        The file as read, with CryoSPARC's uids.

    Raises
    ------
    InputError
        When there are no such particles, ``path`` is no .cs, or the stacks cannot be seen on this machine.
    MasterError
        When the master cannot be reached.
    """
    path = Path(path)
    if path.suffix != ".cs":
        raise InputError(f"{path}: the name of the new file must end in .cs (convert makes a .star of it).")
    source = find_particles(cs, project, particles)
    rows = load_output(cs, project, source)
    write_particles(path, rows, project_directory(cs, project))
    write_csg(path.with_suffix(".csg"), path, tuple(rows.fields()), len(rows))
    return read_particles(path)

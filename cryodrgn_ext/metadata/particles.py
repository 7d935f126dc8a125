"""Reading particles from the files of any suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cryosparc_particles import read_cryosparc_particles
from cryodrgn_ext.metadata.optics import OpticsGroup
from cryodrgn_ext.metadata.particle_ctf import ParticleCtf
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.relion_particles import read_relion_particles

__all__ = ["OpticsGroup", "ParticleCtf", "ParticleSet", "read_particles"]


def read_particles(
    path: str | Path,
    project_dir: str | Path | None = None,
    require_poses: bool = True,
    passthroughs: Sequence[str | Path] = (),
) -> ParticleSet:
    """Read particles with their poses, CTF, optics and image references.

    Parameters
    ----------
    path : path-like
        A particles STAR file of RELION 3.0, 3.1, 4 or 5; a .cs or .csg file of particles, or the directory of a job,
        of CryoSPARC.
    project_dir : path-like, optional
        What image references are relative to. When omitted: the working directory, or the nearest directory upward
        from the file, in which the first stack exists.
    require_poses : bool
        Refuse files without orientations.
    passthroughs : sequence of path-like
        Further .cs files of the same particles, joined by uid.

    Returns
    -------
    ParticleSet

    Raises
    ------
    InputError
        One sentence that names file and row, for everything that would otherwise go wrong in silence: missing
        columns, NaN, undefined optics groups, pixel sizes of 0, half-sets that are 0 in some rows or split an image,
        image references without index. Images are not looked at: see
        :func:`cryodrgn_ext.metadata.image_checks.check_images`.
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".cs", ".csg") or Path(path).is_dir():
        return read_cryosparc_particles(path, project_dir, require_poses, passthroughs)
    if passthroughs:
        raise InputError(f"{path}: passthrough files belong to a .cs of CryoSPARC, not to a STAR file")
    if suffix in (".mrcs", ".mrc", ".pkl"):
        raise InputError(f"{path}: is no particles file; give the particles STAR or .cs file that describes the images")
    return read_relion_particles(path, project_dir, require_poses)

"""Reading particles from the files of any suite."""

from __future__ import annotations

from pathlib import Path

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.optics import OpticsGroup
from cryodrgn_ext.metadata.particle_set import ParticleCtf, ParticleSet
from cryodrgn_ext.metadata.relion_particles import read_relion_particles

__all__ = ["OpticsGroup", "ParticleCtf", "ParticleSet", "read_particles"]


def read_particles(path: str | Path, project_dir: str | Path | None = None, require_poses: bool = True) -> ParticleSet:
    """Read particles with their poses, CTF, optics and image references.

    Parameters
    ----------
    path : path-like
        A particles STAR file of RELION 3.0, 3.1, 4 or 5.
    project_dir : path-like, optional
        What image references are relative to. When omitted: the working directory, or the nearest directory upward
        from the file, in which the first stack exists.
    require_poses : bool
        Refuse files without orientations.

    Returns
    -------
    ParticleSet

    Raises
    ------
    InputError
        One sentence that names file and row, for everything that would otherwise go wrong in silence: missing
        columns, NaN, undefined optics groups, pixel sizes of 0, half-sets that are 0 in some rows or split an image,
        image references without index. Images are not looked at: see :meth:`ParticleSet.check_images`.
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".cs", ".csg"):
        raise InputError(f"{path}: files of CryoSPARC are not supported yet; give a particles STAR file")
    if suffix in (".mrcs", ".mrc", ".pkl"):
        raise InputError(f"{path}: is no particles file; give the particles STAR file that describes the images")
    return read_relion_particles(path, project_dir, require_poses)

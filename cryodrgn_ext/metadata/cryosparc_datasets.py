"""Particles of a live CryoSPARC job: the datasets that cryosparc-tools loads, as a ParticleSet.

The same as reading the job's files: further datasets (passthroughs) are joined by uid, nothing goes through a file,
and no client is needed here; a dataset is anything that names its fields and gives their columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cryosparc_files import NEEDED
from cryodrgn_ext.metadata.cryosparc_particles import particles_from_cs
from cryodrgn_ext.metadata.cs import CsTable, as_column, checked_table, joined
from cryodrgn_ext.metadata.particle_set import ParticleSet


class DatasetLike(Protocol):
    """What is used of ``cryosparc.dataset.Dataset``."""

    def fields(self) -> list[str]:
        """Names of all fields, uid among them."""

    def __getitem__(self, key: str, /) -> Any:
        """Return the column of a field."""


def table_from_dataset(dataset: DatasetLike, name: str) -> CsTable:
    """Return a dataset's columns as a table of their own, text as fixed-width bytes; the dataset stays as it is.

    Parameters
    ----------
    dataset : cryosparc.dataset.Dataset or alike
    name : str
        What messages call it, such as ``"P3-J42 particles"``.

    Raises
    ------
    InputError
        When it has no uid, or one twice.
    """
    return checked_table(
        CsTable(Path(name), {field: as_column(np.array(dataset[field])) for field in dataset.fields()})
    )


def particles_from_datasets(
    datasets: Sequence[DatasetLike],
    project_dir: str | Path,
    *,
    name: str = "CryoSPARC particles",
    require_poses: bool = True,
) -> ParticleSet:
    """Return the particles of a job's output.

    Parameters
    ----------
    datasets : sequence of cryosparc.dataset.Dataset
        The first gives the particles and their order (as ``job.load_output("particles")`` returns it); fields that it
        lacks are taken from the others, by uid.
    project_dir : path-like
        The project's directory as this machine sees it, to which blob/path is relative.
    name : str
        What messages call it, such as ``"P3-J42 particles"``.
    require_poses : bool
        Refuse particles without orientations.

    Returns
    -------
    ParticleSet

    Raises
    ------
    InputError
        As :func:`cryodrgn_ext.metadata.particles.read_particles`, and when images or CTF are in none of the datasets.
    """
    if not datasets:
        raise InputError(f"{name}: there is no dataset to take particles from")
    table = table_from_dataset(datasets[0], name)
    for number, other in enumerate(datasets[1:], 1):
        table = joined(table, table_from_dataset(other, f"{name} (passthrough {number})"))
    missing = [field for field in NEEDED if field not in table]
    if missing:
        raise InputError(f"{name}: has no field {', '.join(missing)}; load the output with all of its slots")
    return particles_from_cs(table, project_dir, require_poses)


def absolute_stacks(particles: ParticleSet) -> dict[str, Any]:
    """Return blob/path (N,) with the stacks' whole paths, for a .cs file that is read away from its project."""
    names = as_column(np.array([str(path.absolute()) for path in particles.stack_paths], object))
    return {"blob/path": names[particles.stack_id]}

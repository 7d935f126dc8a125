"""Particles of a parent job as a file that our jobs read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cryodrgn_ext.durable_files import atomic_path
from cryodrgn_ext.errors import InputError
from cryosparc_jobs.slots import Slot, SourceOutput

NEEDED = ("blob", "ctf", "alignments3D")
# What a job needs that finds orientations by itself.
UNALIGNED = ("blob", "ctf")
WELCOME = ("location",)
# What the slots with latents begin with, of variability and flexible refinement jobs as of ours.
LATENTS = "components_mode_"
# Where the shifts may be that a search for orientations begins from, the best first.
ORIGINS = ("alignments3D", "alignments2D")


def wanted_slots(source: SourceOutput, needed: Sequence[str] = NEEDED, welcome: Sequence[str] = WELCOME) -> list[Slot]:
    """Return the slots to connect, explicitly: those that a job needs, and of ``welcome`` what the particles have.

    Raises
    ------
    InputError
        When the output is not of particles, or lacks a slot that is needed, such as orientations.
    """
    name = f"{source.job_uid} {source.name}"
    if source.type != "particle":
        what = "particles of a 3D refinement" if "alignments3D" in needed else "particles"
        raise InputError(f"{name} is an output of type {source.type}; {what} are needed.")
    missing = [slot for slot in needed if slot not in source.slots]
    if missing:
        what = "a finished 3D refinement" if "alignments3D" in needed else "an extraction with CTF"
        raise InputError(
            f"{name} has no {', '.join(missing)}; particles of {what} are needed, which have {', '.join(needed)}."
        )
    slots = [Slot(slot, source.slots[slot]) for slot in needed]
    return slots + [Slot(slot, source.slots[slot], required=False) for slot in welcome if slot in source.slots]


def write_particles(path: Path, rows: Any, project: Path) -> None:
    """Write rows as a .cs in numpy's form whose stacks are found from anywhere.

    Parameters
    ----------
    path : Path
    rows : cryosparc.dataset.Dataset
        Left as it is.
    project : Path
        The project's directory, to which the stacks are relative.

    Raises
    ------
    InputError
        When there are no rows, or the stacks cannot be seen on this machine.
    """
    if len(rows) == 0:
        raise InputError("The connected output has no particles.")
    names, which = np.unique(np.asarray(rows["blob/path"]).astype(str), return_inverse=True)
    absolute = np.array([str(project / name.removeprefix(">")) for name in names], dtype=object)
    missing = [name for name in absolute if not Path(name).exists()]
    if missing:
        raise InputError(
            f"{missing[0]} is not visible on this machine ({len(missing)} of {len(names)} stacks): run where "
            f"{project} is mounted under the same path as on the CryoSPARC master."
        )
    copy = rows.copy()
    copy["blob/path"] = absolute[which]
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        copy.save(file)

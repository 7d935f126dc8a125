"""Outputs that a job of ours is connected to: particles, a mask or a volume of other jobs, as a user names them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cryodrgn_ext.errors import InputError
from cryosparc_jobs.client import find_output, outputs_of
from cryosparc_jobs.particles import NEEDED
from cryosparc_jobs.slots import Slot, SourceOutput

MULTI = "alignments3D_multi"
# Where a job has several outputs of particles: all of them in a train job of ours, and in a refinement.
PREFERRED = ("particles_all", "particles")
# The type of output and the slot that hold a mask and a map.
MAPS = {"mask": ("mask", "mask"), "volume": ("volume", "map")}


def named_output(given: Any, what: str) -> tuple[str, str | None]:
    """Read how a user names an output: ``("J42", "particles")``, ``"J42"``, or a job of the client, alone or in a pair.

    Parameters
    ----------
    given : str, job, or pair
    what : str
        The argument's name, for messages.

    Returns
    -------
    (uid, name) : (str, str or None)
        The output's name is None where it was left open.

    Raises
    ------
    InputError
        For anything else.
    """
    job, name = given if isinstance(given, (tuple, list)) and len(given) == 2 else (given, None)
    uid = job if isinstance(job, str) else getattr(job, "uid", None)
    if not isinstance(uid, str) or not (name is None or isinstance(name, str)):
        raise InputError(f'{what} must be a job, or a job and its output, as ("J42", "{what}"), not {given!r}.')
    return uid, name


def find_particles(cs: Any, project: str, given: Any, needed: Sequence[str] = NEEDED) -> SourceOutput:
    """Find particles with the slots that are needed, orientations among them unless said otherwise.

    Parameters
    ----------
    cs : cryosparc.tools.CryoSPARC
    project : str
    given : str, job, or pair
        See :func:`named_output`.
    needed : sequence of str
        Slots without which particles are of no use.

    Raises
    ------
    InputError
        When the job has no such output, several that could be meant, or their orientations do not share a
        coordinate system.
    MasterError
        When there is no such project or job, or the master cannot be reached.
    """
    uid, name = named_output(given, "particles")
    outputs = outputs_of(cs, project, uid)
    usable = [key for key, one in outputs.items() if one.type == "particle" and set(needed) <= set(one.slots)]
    if name is None:
        chosen = [key for key in PREFERRED if key in usable][:1] or usable
        if len(chosen) != 1:
            found = f"several: {', '.join(chosen)}" if chosen else f"none: it has {', '.join(outputs) or 'no outputs'}"
            raise InputError(
                f"Which particles of {project}-{uid} are meant? Of those with {', '.join(needed)} it has {found}."
            )
        name = chosen[0]
    source = find_output(cs, project, uid, name)
    only_several = MULTI in source.slots and "alignments3D" not in source.slots
    if "alignments3D" in needed and source.type == "particle" and only_several:
        instead = f"one of its classes ({', '.join(usable)})" if usable else "particles of one class"
        raise InputError(
            f"{uid} {name} has only {MULTI}: poses against several references, which need not share a "
            f"coordinate system. Refine all of them together first (Homogeneous Refinement), or give {instead}."
        )
    return source


def find_map(cs: Any, project: str, given: Any, what: str) -> tuple[SourceOutput, Slot]:
    """Find a mask or a volume, and the slot to connect.

    Parameters
    ----------
    cs : cryosparc.tools.CryoSPARC
    project : str
    given : str, job, or pair
        See :func:`named_output`; the output is called like its type when left open.
    what : {"mask", "volume"}

    Raises
    ------
    InputError
        When the job has no such output, or it is of another type.
    MasterError
        When there is no such project or job, or the master cannot be reached.
    """
    uid, name = named_output(given, what)
    source = find_output(cs, project, uid, what if name is None else name)
    kind, slot = MAPS[what]
    if source.type != kind or slot not in source.slots:
        raise InputError(
            f"{source.job_uid} {source.name} is an output of type {source.type} with {', '.join(source.slots)}; for "
            f"{what} one of type {kind} with {slot} is needed."
        )
    return source, Slot(slot, source.slots[slot])


def map_path(rows: Any, slot: str, root: Path) -> Path:
    """Path of the map that a connected output names.

    Parameters
    ----------
    rows : cryosparc.dataset.Dataset
    slot : str
    root : Path
        The project's directory.

    Raises
    ------
    InputError
        When there is not exactly one, or it cannot be seen on this machine.
    """
    names = np.asarray(rows[f"{slot}/path"]).astype(str)
    if len(names) != 1:
        raise InputError(f"The connected {slot} has {len(names)} maps; one is needed.")
    path = root / str(names[0]).removeprefix(">")
    if not path.is_file():
        raise InputError(
            f"{path} is not visible on this machine: run where {root} is mounted under the same path as on the "
            "CryoSPARC master."
        )
    return path

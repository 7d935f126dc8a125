"""Finding what an earlier train or abinit job learned, and the particles of the project that it is about."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import yaml

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.plain_files import load_json
from cryodrgn_ext.results.record import RECORD_NAME
from cryosparc_jobs.errors import asking
from cryosparc_jobs.parents import find_particles
from cryosparc_jobs.running import ORIGIN_NAME
from cryosparc_jobs.slots import SourceOutput


def find_result(cs: Any, project: str, given: Any, particles: Any = None) -> tuple[Path, SourceOutput]:
    """Find the result directory of a train, abinit or landscape job, and the output to connect.

    Parameters
    ----------
    cs : cryosparc.tools.CryoSPARC
    project : str
    given : str, path, or job
        Our External job, as ``"J43"``, or its result directory on this machine.
    particles : str, job, or pair, optional
        The parent's particles; those of the External job (all of them, which come from the parent and carry the
        latents, and of an abinit job its poses) when omitted.

    Returns
    -------
    (directory, source) : (Path, SourceOutput)

    Raises
    ------
    InputError
        When there is no such result on this machine, or it does not say which particles these are.
    MasterError
        When there is no such project or job, or the master cannot be reached.
    """
    uid = given if isinstance(given, str) else getattr(given, "uid", None)
    if isinstance(uid, str) and re.fullmatch(r"J\d+", uid) and not Path(uid).is_dir():
        directory = _directory_of(cs, project, uid)
    elif isinstance(given, (str, Path)):
        directory, uid = Path(given).absolute(), _origin(Path(given), project)
        if not (directory / RECORD_NAME).is_file():
            raise InputError(
                f"{directory} is not the result directory of a train or abinit job (no {RECORD_NAME}), nor a job."
            )
    else:
        raise InputError(f'result must be a job of ours, as "J43", or its result directory, not {given!r}.')
    if particles is not None:
        return directory, find_particles(cs, project, particles)
    if uid is None:
        raise InputError(
            f"{directory} was not made by a job of project {project}: say which of its particles these are, as "
            'particles=("J42", "particles") (--particles J42 particles).'
        )
    return directory, find_particles(cs, project, uid)


def _directory_of(cs: Any, project: str, uid: str) -> Path:
    """Find the result directory of our External job, as the record among its files says."""
    buffer = io.BytesIO()
    with asking(f"give back the record of job {project}-{uid} (is it a train or abinit job of ours?)"):
        cs.download_file(project, f"{uid}/{uid}_{RECORD_NAME}", buffer)
    try:
        directory = Path(yaml.safe_load(buffer.getvalue())["settings"]["o"])
    except (yaml.YAMLError, TypeError, KeyError, UnicodeDecodeError):
        raise InputError(f"The record {uid}_{RECORD_NAME} of job {project}-{uid} cannot be read.") from None
    if not (directory / RECORD_NAME).is_file():
        raise InputError(
            f"The result directory of {project}-{uid}, {directory}, is not on this machine: run there, or give its "
            f"new place as the result together with the particles."
        )
    return directory


def _origin(directory: Path, project: str) -> str | None:
    """The External job of this project that a result directory belongs to; None when there is none."""
    try:
        origin = load_json(directory / ORIGIN_NAME)
        return str(origin["job"]) if origin["project"] == project else None
    except (OSError, ValueError, KeyError, TypeError):
        return None

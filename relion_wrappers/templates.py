"""job.star of an External job, for ``relion_pipeliner --addJobFromStar`` and the GUI; one text serves 3.1 to 5."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.durable_files import atomic_write_text
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.registry import Job
from cryodrgn_ext.metadata.own_tables import own_star_text
from cryodrgn_ext.setting_field import SettingField
from cryodrgn_ext.settings import canonical_name, describe, text_of, unknown_option

PARAMETER_FIELDS = 10
# Settings that have fields of their own in RELION's External job.
JOB_FIELDS = {"in_parts": "in_part", "in_3dref": "in_3dref", "in_mask": "in_mask", "j": "nr_threads"}
# RELION 3.1 knows job types by number, later ones by label.
JOB = {"rlnJobType": 99, "rlnJobTypeLabel": "relion.external", "rlnJobIsContinue": 0, "rlnJobIsTomo": 0}
UNSAFE = set(" \t\n'\"*?[]<>|&;$`()\\#")


@dataclass(frozen=True)
class Queue:
    """How RELION shall submit the job; the fields of its Running tab."""

    script: str
    command: str = "sbatch"
    name: str = "openmpi"


def executable_path(program: str) -> str:
    """Absolute path of a wrapper's console script, as RELION shall call it.

    Parameters
    ----------
    program : str
        ``cdx-relion-train``.

    Raises
    ------
    InputError
        When it is not installed, or RELION's shell would break the path.
    """
    beside = Path(sys.executable).parent / program
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which(program)
    if found is None:
        raise InputError(f"{program} is not installed beside {sys.executable}: run 'pip install cryodrgn-ext' again.")
    path = str(Path(found).absolute())
    _check_safe("the path of the executable", path)
    return path


def job_star(job: Job, given: Mapping[str, str], queue: Queue | None = None, executable: str | None = None) -> str:
    """Text of a job.star for a wrapper, filled with defaults.

    Parameters
    ----------
    job : Job
        One with a RELION program.
    given : mapping
        Option name to text: what differs from the defaults, and the inputs.
    queue : Queue, optional
        Submission; the job runs at once when omitted.
    executable : str, optional
        Path of the wrapper; found beside the running Python when omitted.

    Raises
    ------
    InputError
        Unknown option, a value that is out of bounds or that the shell would break.
    """
    if not job.relion_program:
        raise InputError(f"the {job.name} job has no RELION wrapper.")
    fields = {field.name: field for field in describe(job.settings_class)}
    values = {canonical_name(option): text for option, text in given.items()}
    for name, text in values.items():
        if name not in fields or name == "o":
            raise unknown_option(job.settings_class, name)
        _check_safe(f"--{name}", text)
        fields[name].check(fields[name].parse([text] if text else []))
    rows = {"fn_exe": executable or executable_path(job.relion_program)}
    for name, option in JOB_FIELDS.items():
        if name in fields:
            text = values.get(name, text_of(fields[name]))
            # RELION always passes a number of threads: where the user leaves it open, all cores of this machine.
            rows[option] = str(os.cpu_count() or 1) if name == "j" and int(text) == 0 else text
    order = {name: rank for rank, name in enumerate(job.shown)}
    eligible = [field for field in fields.values() if field.name not in JOB_FIELDS and field.name != "o"]
    shown, other = _split_fields(sorted(eligible, key=lambda field: order.get(field.name, len(order))), values)
    for number, field in enumerate(shown, start=1):
        rows[f"param{number}_label"] = field.name
        rows[f"param{number}_value"] = values.get(field.name, text_of(field))
    rows["do_queue"] = "No" if queue is None else "Yes"
    if queue is not None:
        rows |= {"queuename": queue.name, "qsub": queue.command, "qsubscript": queue.script, "min_dedicated": "1"}
    rows["other_args"] = " ".join(f"--{field.name} {values[field.name]}" for field in other)
    rows = {option: value for option, value in rows.items() if value != ""}
    options = {"rlnJobOptionVariable": list(rows), "rlnJobOptionValue": list(rows.values())}
    return own_star_text({"job": JOB, "joboptions_values": options})


def _split_fields(
    fields: list[SettingField], values: Mapping[str, str]
) -> tuple[list[SettingField], list[SettingField]]:
    """Fields for RELION's ten parameters, and those given ones that must go into the other arguments."""
    return fields[:PARAMETER_FIELDS], [field for field in fields[PARAMETER_FIELDS:] if values.get(field.name)]


def write_template(path: Path, text: str) -> None:
    """Write a job.star atomically.

    Raises
    ------
    InputError
        When its directory is missing.
    """
    if not path.parent.is_dir():
        raise InputError(f"the project directory {path.parent} does not exist.")
    atomic_write_text(path, text)


def _check_safe(what: str, text: str) -> None:
    bad = sorted(UNSAFE & set(text))
    if bad:
        raise InputError(
            f"{what} is '{text}', but RELION hands it to the shell without quotes: it must not contain {bad[0]!r}."
        )

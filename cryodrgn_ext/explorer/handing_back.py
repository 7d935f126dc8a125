"""From a saved selection back to the suite: a file of particles, a job of RELION, a job of CryoSPARC.

Each is what a user would do by hand with the saved selection, and comes with the command that does it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.explorer.opened_result import OpenedResult
from cryodrgn_ext.explorer.stored_maps import CONSENSUS, stored_maps
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.images.preprocessing import DEFAULT_WINDOW
from cryodrgn_ext.jobs.select import select
from cryodrgn_ext.options.select import SelectSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.maps_for_relion import MAP_FOR_RELION
from cryodrgn_ext.results.record import require_record
from cryodrgn_ext.results.returned_particles import returned_name
from cryodrgn_ext.results.selections import FOLDER, selection_path
from cryodrgn_ext.workflow.own_program import own_command

PIPELINE = "default_pipeline.star"
PIPELINER = "relion_pipeliner"
#: RELION's pipeliner waits for ever where an input is missing.
LONGEST_S = 1800
JOB_FOLDER = re.compile(r"job[0-9]{3,}")


@dataclass(frozen=True)
class HandedBack:
    """What was made, and how to go on.

    Attributes
    ----------
    message : str
        What was made.
    files : tuple of str
        Paths of it.
    commands : tuple of str
        Lines for the shell that do the same.
    further : str
        How to go on; "" when there is nothing to say.
    """

    message: str
    files: tuple[str, ...]
    commands: tuple[str, ...]
    further: str = ""


def select_command(opened: OpenedResult, name: str, output: Path) -> str:
    """Line for the shell that writes the particles of a saved selection."""
    words = ["cryodrgn-ext", "select", str(opened.given.resolve()), "--selection", name, "--o", str(output)]
    if opened.project is not None:
        words += ["--project", str(opened.project.resolve())]
    return shlex.join(words)


def output_path(opened: OpenedResult, name: str, form: str = "auto") -> Path:
    """Where the particles of a selection are written: beside it, as a .star or .cs."""
    selection_path(opened.home, name)  # refuses names that could lead elsewhere
    suffix = Path(returned_name(opened.result.particles, form)).suffix
    return opened.home.resolve() / FOLDER / f"{name}{suffix}"


def write_file(opened: OpenedResult, name: str, form: str, monitor: Monitor) -> HandedBack:
    """Write the particles of a saved selection, with every column of the user's.

    Raises
    ------
    InputError
        When there is no such selection, or the particles cannot be written in this form.
    """
    if form not in ("auto", "star", "cs"):
        raise InputError(f"particles are written as star or cs, not as '{form}'.")
    output = output_path(opened, name, form)
    said = _Heard(monitor)
    settings = SelectSettings(in_parts=opened.given, o=output, project=opened.project, selection=(name,))
    with opened.lock:
        select(settings, said)
    files = [output, output.with_suffix(".csg")] if output.suffix == ".cs" else [output]
    # The first sentence says what is read.
    return HandedBack(" ".join(said.heard[1:]), tuple(map(str, files)), (select_command(opened, name, output),))


class _Heard(Monitor):
    """Keeps what is said, and passes it on."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__()
        self.monitor, self.heard = monitor, list[str]()

    def message(self, text: str) -> None:
        """Keep it, and pass it on."""
        self.heard.append(text)
        self.monitor.message(text)


def relion_project(opened: OpenedResult) -> Path | None:
    """The RELION project that a result lies in, with what is kept of it; None where it lies in none."""
    above = opened.home.resolve().parents  # of a landscape its own, which may lie elsewhere than what it is of
    return next((folder for folder in above if (folder / PIPELINE).is_file()), None)


def relion_commands(opened: OpenedResult, name: str) -> tuple[str, ...]:
    """Lines for the shell that make a job of RELION of a saved selection, run in the project."""
    selection_path(opened.home, name)
    project = relion_project(opened)
    if project is None:
        raise InputError(f"{opened.home} lies in no RELION project (no {PIPELINE} above it).")
    particles = Layout(opened.home.resolve()).particles.relative_to(project)
    template = f"cdx_select_{name}_job.star"
    words = ["cryodrgn-ext", "relion", "template", "select", "--name", template, "--in_parts", str(particles),
             "--selection", name]  # fmt: skip
    return shlex.join(words), shlex.join([PIPELINER, "--addJobFromStar", template])


def make_relion_job(opened: OpenedResult, name: str, monitor: Monitor) -> HandedBack:
    """Add a select job to the RELION project, and run it: by RELION's own pipeliner.

    Raises
    ------
    InputError
        When there is no project, no pipeliner, or one of the steps fails.
    """
    opened.saved_selection(name)
    commands, project = relion_commands(opened, name), relion_project(opened)
    assert project is not None
    if shutil.which(PIPELINER) is None:
        raise InputError(f"{PIPELINER} is not on PATH: add the job by hand with the commands that are shown.")
    with opened.lock:
        jobs = _jobs(project)
        for command in commands:
            _run(shlex.split(command), project, monitor)
        new = sorted(_jobs(project) - jobs)
        if len(new) != 1:
            raise InputError(f"{PIPELINER} added no job to {project}: add it by hand with the commands that are shown.")
        job = f"External/{new[0]}/"
        run = [PIPELINER, "--sec_wait_after", "1", "--RunJobs", job]
        _run(run, project, monitor)
    particles = project / job / "particles.star"
    if not (project / job / "RELION_JOB_EXIT_SUCCESS").exists():
        raise InputError(f"{job} of {project} did not finish: {job}run.err says why.")
    line, further = refine_command(opened, project, f"{job}particles.star"), "Choose them in RELION's window."
    if line is not None:
        further = f"Refine them: in {project}: {line} adds a job for RELION's window; or choose them there."
    return HandedBack(
        f"{job} is finished: {job}particles.star is among its outputs.", (str(particles),),
        (*commands, shlex.join(run)), further,
    )  # fmt: skip


def refine_command(opened: OpenedResult, project: Path, particles: str) -> str | None:
    """Line for the shell that adds a Refine3D job to the project; RELION takes none without a reference.

    Parameters
    ----------
    opened : OpenedResult
    project : Path
        As :func:`relion_project` finds it.
    particles : str
        From there.

    Returns
    -------
    str or None
        None where the consensus is gone.
    """
    consensus = next((one.path.resolve() for one in stored_maps(opened) if one.key == CONSENSUS), None)
    if consensus is None or not consensus.is_relative_to(project):
        return None
    dark = consensus.with_name(MAP_FOR_RELION)
    settings = require_record(opened.result.directory, opened.result.job)["settings"]
    # As far as the images were looked at; RELION's own diameter is that of a ribosome.
    whole = read_map(consensus)
    diameter_A = settings.get("mask_diameter_A") or DEFAULT_WINDOW[0] * whole.box_size * whole.pixel_size_A
    options = {
        "fn_img": particles,
        "fn_ref": str((dark if dark.is_file() else consensus).relative_to(project)),
        "particle_diameter": f"{diameter_A:.0f}",
        "sym_name": settings.get("symmetry") or "C1",
    }
    said = ";".join(f"{name} == {value}" for name, value in options.items())
    return shlex.join([PIPELINER, "--addJob", "Refine3D", "--addJobOptions", said])


def _jobs(project: Path) -> set[str]:
    return {path.name for path in (project / "External").glob("job*") if JOB_FOLDER.fullmatch(path.name)}


def cryosparc_command(opened: OpenedResult, name: str, where: Mapping[str, str]) -> str:
    """Line for the shell that makes an External job of a saved selection.

    Parameters
    ----------
    opened : OpenedResult
    name : str
    where : mapping
        ``project`` (P3), ``workspace`` (W1), and ``job`` (J43), the job of ours that learned.

    Raises
    ------
    InputError
        When one of them is missing, or is no number of CryoSPARC.
    """
    selection_path(opened.home, name)
    for what, letter in (("project", "P"), ("workspace", "W"), ("job", "J")):
        if not re.fullmatch(rf"{letter}[0-9]+", where.get(what, "")):
            raise InputError(f"the {what} of CryoSPARC is given as {letter} and its number, for example {letter}3.")
    output = opened.home.resolve() / FOLDER / f"{name}_{where['project']}"
    return shlex.join(
        ["cryodrgn-ext", "cryosparc", "select", "--project", where["project"], "--workspace", where["workspace"],
         "--result", where["job"], "--selection", name, "--directory", str(output)]
    )  # fmt: skip


def make_cryosparc_job(opened: OpenedResult, name: str, where: Mapping[str, str], monitor: Monitor) -> HandedBack:
    """Make an External job with the particles of a saved selection, with the login that the user has saved.

    Raises
    ------
    InputError
        When it cannot be made; in the words of the command.
    """
    opened.saved_selection(name)
    command = cryosparc_command(opened, name, where)
    with opened.lock:
        said = _run(shlex.split(command), Path.cwd(), monitor)
    return HandedBack(said[-1] if said else "The job is completed.", (), (command,))


def _run(words: Sequence[str], folder: Path, monitor: Monitor) -> list[str]:
    """Run a command of ours or of RELION in a folder; return the lines that it wrote.

    Raises
    ------
    InputError
        With its last line, when it fails.
    """
    line = shlex.join(words)
    monitor.message(f"Running in {folder}: {line}")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            own_command(words), cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True,
            errors="backslashreplace", check=False, timeout=LONGEST_S, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        lines = [text for text in done.stdout.splitlines() if text.strip()]
        if done.returncode:
            errors = [text for text in done.stderr.splitlines() if text.strip()] or lines or ["it said nothing"]
            raise InputError(f"{line} failed: {errors[-1].removeprefix('ERROR: ')}")
        return lines
    raise InputError(f"{line} did not end within {LONGEST_S // 60} minutes and was stopped.")

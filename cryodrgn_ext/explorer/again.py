"""The loop of cleaning: train again without what was found to be junk, and hold the new result against the former.

Each step is a command of ours in a process of its own, shown to the user, in the directory in which the former job ran:
``select`` writes the particles that are kept, the former job's own command learns on them, ``compare`` compares.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cryodrgn_ext.errors import CryodrgnExtError, InputError
from cryodrgn_ext.explorer.handing_back import select_command
from cryodrgn_ext.explorer.opened_result import OpenedResult
from cryodrgn_ext.jobs.registry import JOBS
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.report.run_facts import command_line
from cryodrgn_ext.results.consensus import read_consensus
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.record import require_record
from cryodrgn_ext.results.returned_particles import returned_name
from cryodrgn_ext.results.selections import checked_name
from cryodrgn_ext.settings import from_plain
from cryodrgn_ext.workflow.own_program import own_command

FOLDER, COMPARED = "again", "compared"
LEARNING_JOBS = ("train", "abinit")
PATIENCE_S = 10
Say = Callable[[str], None]


@dataclass
class Again:
    """A job that learns again on some of the particles.

    Attributes
    ----------
    directory : Path
        Its result directory.
    commands : tuple of str
        All steps, as a user would type them in ``folder``.
    folder : Path
        In which the former job ran.
    state : str
        "running", "finished" or "failed".
    line : str
        The latest line that was said, or why it has failed.
    opened : int
        Number of the new result among those that are open, once it is finished; -1 before.
    rows : list of tuple
        What is compared, formerly, and now: words.
    """

    directory: Path
    commands: tuple[str, ...]
    folder: Path
    state: str = "running"
    line: str = ""
    opened: int = -1
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """For the page."""
        return {
            "directory": str(self.directory), "commands": list(self.commands), "state": self.state, "line": self.line,
            "opened": self.opened, "rows": [list(row) for row in self.rows],
        }  # fmt: skip


def why_not(opened: OpenedResult) -> str:
    """Why a result cannot be learned again, in one sentence; "" where it can."""
    result = opened.result
    if result.job not in LEARNING_JOBS:
        return (
            f"{result.directory.name} is a result of {result.job}, so that no job of cryodrgn-ext has learned it that "
            "could be repeated: save what is to be kept, write it under Carry back, and train on that file."
        )
    folder = require_record(result.directory, result.job).get("project_directory")
    if folder is None or not Path(folder).is_dir():
        return (
            f"{folder or 'the directory'}, in which the job ran and to which its settings are relative, is not there "
            "any more: save what is to be kept, write it under Carry back, and train on that file."
        )
    if not os.access(opened.home, os.W_OK):
        return f"{opened.home}, which would get the new result, may not be written to: copy the result, and open that."
    return ""


def free_directory(opened: OpenedResult, name: str) -> Path:
    """Directory of a result that is learned again under a name.

    Raises
    ------
    InputError
        When it was learned again before under this name, or cannot be.
    """
    reason = why_not(opened)
    if reason:
        raise InputError(reason)
    directory = opened.home.resolve() / FOLDER / checked_name(name, "selection")
    if directory.exists():
        raise InputError(f"{directory} is there already: give another name.")
    return directory


def plan(opened: OpenedResult, name: str) -> Again:
    """Commands that learn again on a saved selection, with all settings of the former job.

    Raises
    ------
    InputError
        When there is no such selection, it was learned again before, or the result was learned elsewhere.
    """
    directory, result = free_directory(opened, name), opened.result
    opened.saved_selection(name)
    record = require_record(result.directory, result.job)
    project = opened.project or result.particles.project_dir
    particles = directory.parent / f"{name}{Path(returned_name(result.particles, 'auto')).suffix}"
    former = from_plain(JOBS[result.job].settings_class, record["settings"])
    changed: dict[str, Any] = {"in_parts": particles, "o": directory, "project": Path(project).resolve()}
    compare = ["cryodrgn-ext", "compare", str(result.directory.resolve()), str(directory), "--o",
               str(directory / COMPARED)]  # fmt: skip
    commands = (
        select_command(opened, name, particles),
        command_line(result.job, replace(former, **changed)),
        shlex.join(compare),
    )
    return Again(directory, commands, Path(record["project_directory"]))


class Loop:
    """Runs one plan after the other, each in a thread; ends what runs when the explorer ends.

    Parameters
    ----------
    monitor : Monitor
    """

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.latest: Again | None = None
        self._process: subprocess.Popen[str] | None = None
        self._ended = False

    def require_idle(self) -> None:
        """Refuse to go on while something runs, with InputError."""
        if self.latest is not None and self.latest.state == "running":
            raise InputError(f"{self.latest.directory} is still being made: wait for it.")

    def start(self, again: Again, opened: OpenedResult, open_result: Callable[[Path], int]) -> None:
        """Run a plan, and open what came out beside the former result.

        Raises
        ------
        InputError
            When another is running, or another program has taken the name.
        """
        self.require_idle()
        again.directory.parent.mkdir(exist_ok=True)
        try:
            again.directory.mkdir()
        except FileExistsError:
            raise InputError(f"{again.directory} is there already: give another name.") from None
        self.latest = again
        threading.Thread(target=self._work, args=(again, opened, open_result), daemon=True, name="again").start()

    def _work(self, again: Again, opened: OpenedResult, open_result: Callable[[Path], int]) -> None:
        def say(line: str) -> None:
            again.line = line

        try:
            for command in again.commands:
                self.monitor.message(f"Running in {again.folder}: {command}")
                self.run(shlex.split(command), again.folder, say)
            again.rows = compared(opened, again.directory)
            again.opened = open_result(again.directory)
            again.state = "finished"
        except (CryodrgnExtError, OSError) as error:
            with contextlib.suppress(OSError):
                again.directory.rmdir()  # as long as nothing is in it: its name is free again
            again.line, again.state = str(error), "failed"
            self.monitor.message(f"{again.directory} failed: {error}")

    def run(self, words: Sequence[str], folder: Path, say: Say) -> None:
        """Run a command of ours, by this very installation; each line that it writes is said.

        Raises
        ------
        InputError
            With its last line, when it fails.
        """
        if self._ended:
            raise InputError("the explorer was stopped.")
        with subprocess.Popen(
            own_command(words), cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="backslashreplace",
        ) as process:  # fmt: skip
            self._process = process
            last = "it said nothing"
            assert process.stdout is not None
            for line in process.stdout:
                last = line.strip() or last
                say(last)
        if process.returncode:
            raise InputError(f"{shlex.join(words[:2])} failed: {last.removeprefix('ERROR: ')}")

    def end(self) -> None:
        """End what is still running; it can be continued by its own command."""
        self._ended = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()


def compared(opened: OpenedResult, directory: Path) -> list[tuple[str, str, str]]:
    """What to know of a new result beside the former: what it is, formerly, and now."""
    former, now = opened.result.directory, directory
    figures = require_record(directory / COMPARED, "compare")["results"]
    rows = [("particles", str(opened.result.particles.n), str(figures["common_particles"]))]
    halves = [_resolution(one) for one in (former, now)]
    if all(halves):
        rows.append(("consensus, half-maps agree to", *halves))  # type: ignore[arg-type]
    rand, linear = (float(np.array(figures[name], float)[0, 1]) for name in ("adjusted_rand", "latents_linear"))
    rows += [
        ("same states (adjusted Rand index)", "", f"{rand:.3f}"),
        ("latents that are linear in the former ones (R²)", "", f"{linear:.3f}"),
    ]
    return rows


def _resolution(directory: Path) -> str:
    try:
        return f"{read_consensus(Layout(directory).consensus).resolution_A:.2f} Å"
    except (CryodrgnExtError, OSError):
        return ""  # of jobs that make no consensus

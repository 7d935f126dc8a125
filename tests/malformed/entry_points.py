"""Run an entry point in a fresh process that has everything imported already, and report what became of it.

A fork server imports torch and the jobs once; every knock is a fork of it. So a case costs a fraction of a second,
and yet runs in a process of its own, as a user's command does.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cryodrgn_ext.cli import main as command_line
from relion_wrappers.entry_point import run_program

PROGRAMS: dict[str, Callable[[], object]] = {
    "cryodrgn-ext": command_line,
    "cdx-relion-train": partial(run_program, "train"),
    "cdx-relion-select": partial(run_program, "select"),
}
PRELOAD = ["tests.malformed.entry_points", "torch", "cryodrgn_ext.jobs.train", "cryodrgn_ext.jobs.select"]
PATIENCE_S = 120.0
MARKERS = ("RELION_JOB_EXIT_SUCCESS", "RELION_JOB_EXIT_FAILURE", "RELION_JOB_EXIT_ABORTED")


@dataclass(frozen=True)
class Outcome:
    """Exit status and streams of one knock."""

    status: int | None
    out: str
    err: str


def _child(program: str, arguments: Sequence[str], folder: Path, streams: tuple[Path, Path]) -> None:
    for descriptor, path in zip((1, 2), streams, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.chdir(folder)
    sys.argv = [program, *arguments]
    status: object = 1
    try:
        status = PROGRAMS[program]()
    except SystemExit as leaving:
        status = leaving.code
    except BaseException:  # noqa: BLE001 - as the interpreter does: a traceback and status 1
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 0 if status is None else 1)


def knock(program: str, arguments: Sequence[str], folder: Path) -> Outcome:
    """Run a console script with arguments in a folder, as ``sh`` would."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    streams = (folder / ".stdout", folder / ".stderr")
    process = context.Process(target=_child, args=(program, list(arguments), folder, streams))
    process.start()
    process.join(PATIENCE_S)
    if process.is_alive():
        process.kill()
        process.join()
    outcome = Outcome(process.exitcode, *(path.read_text(errors="replace") for path in streams))
    for path in streams:
        path.unlink()
    return outcome


def leftovers(folder: Path) -> list[str]:
    """Files in an output folder other than logs, locks and RELION's markers."""
    kept = {"run.log", ".lock", *MARKERS}
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name not in kept
    )

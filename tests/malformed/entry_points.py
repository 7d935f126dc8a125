"""Run an entry point in a fresh process that has everything imported already, and report what became of it.

A fork server imports torch and the jobs once; every knock is a fork of it. So a case costs a fraction of a second,
and yet runs in a process of its own, as a user's command does.
"""

from __future__ import annotations

import ctypes
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
# What a training imports where it is first needed comes along.
LAZY = ["torch._dynamo", "sklearn.cluster"]
PRELOAD = ["tests.malformed.entry_points", "torch", *LAZY, "cryodrgn_ext.jobs.train", "cryodrgn_ext.jobs.select"]
PATIENCE_S = 120.0
MARKERS = ("RELION_JOB_EXIT_SUCCESS", "RELION_JOB_EXIT_FAILURE", "RELION_JOB_EXIT_ABORTED")


@dataclass(frozen=True)
class Outcome:
    """Exit status and streams of one knock."""

    status: int | None
    out: str
    err: str


def _nothing() -> None:
    """Leave the process as it is."""


def obey_permissions() -> None:
    """Take from root the right to read and write whatever the permissions of files say; users do not have it."""
    if os.geteuid() == 0:
        version_3 = (ctypes.c_uint32 * 2)(0x20080522, 0)
        effective_permitted_inheritable = (ctypes.c_uint32 * 6)()  # none of the first 32, and none of the others
        if ctypes.CDLL(None, use_errno=True).capset(version_3, effective_permitted_inheritable) != 0:
            raise OSError(ctypes.get_errno(), "capset")


def _child(
    program: str, arguments: Sequence[str], folder: Path, streams: tuple[Path, Path], prepare: Callable[[], object]
) -> None:
    for descriptor, path in zip((1, 2), streams, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.chdir(folder)
    sys.argv = [program, *arguments]
    status: object = 1
    try:
        prepare()
        status = PROGRAMS[program]()
    except SystemExit as leaving:
        status = leaving.code
    except BaseException:  # noqa: BLE001 - as the interpreter does: a traceback and status 1
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 0 if status is None else 1)


def knock(program: str, arguments: Sequence[str], folder: Path, prepare: Callable[[], object] = _nothing) -> Outcome:
    """Run a console script with arguments in a folder, as ``sh`` would; ``prepare`` is called in its process before."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    streams = (folder / ".stdout", folder / ".stderr")
    process = context.Process(target=_child, args=(program, list(arguments), folder, streams, prepare))
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

"""The life cycle of a RELION External job: exactly one exit marker in every way out.

RELION ignores exit codes; it watches the job's directory for RELION_JOB_EXIT_SUCCESS, _FAILURE or _ABORTED, and
asks for a stop by creating RELION_JOB_ABORT_NOW. A process cannot write a marker after the out-of-memory killer or
a segmentation fault took it, so the work is done in a forked child and a small parent, which imports nothing heavy
and touches no data, waits for it, watches for the abort, and writes the marker for whatever became of the child.

Only a SIGKILL of the parent itself leaves no marker; the child then dies with it, and Continue resumes from the
checkpoint.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cryodrgn_ext.errors import InputError, JobAborted
from cryodrgn_ext.workflow.directory_lock import directory_lock
from cryodrgn_ext.workflow.failure import (
    CONTINUE,
    EXIT_ABORTED,
    EXIT_FAILURE,
    EXIT_INPUT_ERROR,
    STOP_SIGNALS,
    explain,
    heeded_signals,
)
from cryodrgn_ext.workflow.unfinished_files import remove_unfinished

SUCCESS = "RELION_JOB_EXIT_SUCCESS"
FAILURE = "RELION_JOB_EXIT_FAILURE"
ABORTED = "RELION_JOB_EXIT_ABORTED"
ABORT_NOW = "RELION_JOB_ABORT_NOW"
RESERVE = ".exit_marker"
# The parent looks after its child this often: at first more often, as wrong input ends a job at once.
POLL_S = 0.1
FIRST_POLL_S = 0.005
# A child that is inside one long call when asked to stop gets this long; its outputs are atomic, so killing is safe.
GRACE_S = 5.0
PR_SET_PDEATHSIG = 1

Work = Callable[[Sequence[str], Callable[[], bool]], None]


def output_directory(arguments: Sequence[str]) -> Path | None:
    """Find the job's directory in arguments that may otherwise be nonsense.

    Parameters
    ----------
    arguments : sequence of str
        As the wrapper got them. ``--o`` is looked for first, then ``--pipeline_control``, which RELION sets to the
        same directory.
    """
    for names in (("--o",), ("--pipeline_control", "--pipeline-control")):
        for position, argument in enumerate(arguments):
            name, equals, value = argument.partition("=")
            if name not in names:
                continue
            if not equals:
                value = arguments[position + 1] if position + 1 < len(arguments) else ""
            if value and not value.startswith("--"):
                return Path(value)
    return None


def run_external_job(arguments: Sequence[str], work: Work) -> int:
    """Run ``work`` in a child process and leave exactly one marker in the job's directory.

    Parameters
    ----------
    arguments : sequence of str
        Command line without the program's name.
    work : callable
        ``work(arguments, abort_requested)``; returns on success, raises otherwise. It runs in the child.

    Returns
    -------
    int
        Exit status: 0 success, 1 failure, 2 wrong input, 130 aborted.
    """
    directory = output_directory(arguments)
    if directory is None:
        _complain("--o is missing: RELION passes the job's directory as --o External/jobNNN/.")
        return EXIT_INPUT_ERROR
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with directory_lock(directory):
            return _Supervisor(directory).run(arguments, work)
    except InputError as error:
        # The run that holds the lock owns the marker.
        _complain(str(error))
        return EXIT_INPUT_ERROR
    except OSError as error:
        failure = explain(error, CONTINUE)
        _complain(f"the job's directory cannot be used: {failure.sentence}")
        with contextlib.suppress(OSError):
            write_marker(directory, FAILURE)
        return failure.exit_code


def write_marker(directory: Path, marker: str) -> None:
    """Leave ``marker`` as the only exit marker; renames the reserved file, so that a full disk does not matter."""
    for other in (SUCCESS, FAILURE, ABORTED):
        if other != marker:
            (directory / other).unlink(missing_ok=True)
    try:
        os.replace(directory / RESERVE, directory / marker)
    except FileNotFoundError:
        (directory / marker).touch()
    # After the marker, as RELION's manual has it: whoever waits for the abort sees the marker first.
    (directory / ABORT_NOW).unlink(missing_ok=True)


class _Supervisor:
    """The parent process: waits, watches, writes the marker."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stop_reason = ""

    def run(self, arguments: Sequence[str], work: Work) -> int:
        marker, code = FAILURE, EXIT_FAILURE
        previous = {number: signal.signal(number, self._on_signal) for number in heeded_signals()}
        try:
            self._clear_stale_markers()
            child = self._fork(arguments, work)
            status = self._wait(child)
            marker, code = self._judge(status)
        except OSError as error:
            failure = explain(error, CONTINUE)
            _complain(failure.sentence)
            code = failure.exit_code
        finally:
            if marker != SUCCESS:
                remove_unfinished(self.directory)
            write_marker(self.directory, marker)
            for number, handler in previous.items():
                signal.signal(number, handler)
        return code

    def _on_signal(self, number: int, _frame: object) -> None:
        self.stop_reason = self.stop_reason or signal.Signals(number).name

    def _clear_stale_markers(self) -> None:
        for marker in (SUCCESS, FAILURE, ABORTED):
            (self.directory / marker).unlink(missing_ok=True)
        # An abort request older than RELION's last "Run" or "Continue" (which writes job.star) was for an earlier run.
        request, job = self.directory / ABORT_NOW, self.directory / "job.star"
        if request.exists() and job.exists() and request.stat().st_mtime_ns < job.stat().st_mtime_ns:
            request.unlink(missing_ok=True)
        (self.directory / RESERVE).touch()

    def _fork(self, arguments: Sequence[str], work: Work) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        # No signal may reach the child before its own handlers are in place.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            child = os.fork()
            if child == 0:
                _run_child(parent, arguments, work)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return child

    def _wait(self, child: int) -> int:
        """Wait for the child's end; pass on a request to stop, and kill it when it does not heed."""
        kill_at = None
        pause_s = FIRST_POLL_S
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return status
            if not self.stop_reason and (self.directory / ABORT_NOW).exists():
                self.stop_reason = "abort"
            if self.stop_reason and kill_at is None:
                kill_at = time.monotonic() + GRACE_S
                os.kill(child, signal.SIGTERM)
            if kill_at is not None and time.monotonic() > kill_at:
                os.kill(child, signal.SIGKILL)
                kill_at = float("inf")
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, POLL_S)

    def _judge(self, status: int) -> tuple[str, int]:
        """Marker and exit status for what became of the child."""
        if os.WIFEXITED(status):
            code = os.WEXITSTATUS(status)
            if code == 0:
                return SUCCESS, 0
            return (ABORTED if code == EXIT_ABORTED else FAILURE), code
        if self.stop_reason:
            _complain(f"the job was aborted; {CONTINUE}.")
            return ABORTED, EXIT_ABORTED
        number = os.WTERMSIG(status)
        if number == signal.SIGKILL:
            _complain(
                "the work was killed from outside (SIGKILL), most often because the machine ran out of memory: use a "
                "smaller --box or --batch or ask for more memory; Continue resumes from the last checkpoint."
            )
        else:
            name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
            _complain(f"the work ended by {name}, which points to a fault in a library; see run.log.")
        return FAILURE, EXIT_FAILURE


class _AbortFlag:
    """In the child: turns the first stop signal into JobAborted, and remembers it for the Monitor."""

    def __init__(self) -> None:
        self.raised = False

    def __call__(self) -> bool:
        return self.raised

    def on_signal(self, _number: int, _frame: object) -> None:
        if not self.raised:
            self.raised = True
            raise JobAborted("the job was aborted by the user")


def _run_child(parent: int, arguments: Sequence[str], work: Work) -> None:
    """Do the work and leave the process; never returns."""
    code = EXIT_FAILURE
    abort = _AbortFlag()
    try:
        try:
            _die_with(parent)
            for number in heeded_signals():
                signal.signal(number, abort.on_signal)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            work(arguments, abort)
            code = 0
        except BaseException as error:  # noqa: BLE001 - the outermost call: whatever it is becomes a sentence and a marker
            # A library may have wrapped the abort in an error of its own.
            failure = explain(JobAborted() if abort.raised else error, CONTINUE)
            code = failure.exit_code
            _complain(failure.sentence)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        # Not sys.exit: the parent's stack lies below us, and threads of libraries must not keep us here.
        os._exit(code)


def _die_with(parent: int) -> None:
    """Make sure that this process does not outlive ``parent``, also when that is killed with SIGKILL."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):  # Linux: the kernel sees to it
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(EXIT_FAILURE)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(EXIT_FAILURE)

    threading.Thread(target=watch, daemon=True).start()


def _complain(sentence: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"ERROR: {sentence}\n")
        sys.stderr.flush()

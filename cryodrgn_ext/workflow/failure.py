"""Every way in which a job can fail, as one sentence for the user and an exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.errors import CryodrgnExtError, InputError, JobAborted

EXIT_FAILURE = 1
EXIT_INPUT_ERROR = 2
EXIT_ABORTED = 130
#: Signals by which a user, a suite or a queue ends a job; queues announce the end of the time that a job has, or of its
#: processor time, by the last three.
STOP_SIGNALS = (
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU,
)  # fmt: skip

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and continue the job",
    errno.EDQUOT: "your disk quota is used up; free some space and continue the job",
    errno.EFBIG: "the file is larger than the file system or your limit allows (ulimit -f)",
    errno.EACCES: "permission denied; check the permissions of the file and of its folder",
    errno.EPERM: "permission denied; check the permissions of the file and of its folder",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "there is no such file or folder",
    errno.EISDIR: "it is a folder, but a file was expected",
    errno.ENOTDIR: "a part of the path is a file, but a folder was expected",
    errno.EMFILE: "too many files are open at once; raise the limit (ulimit -n)",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EIO: "the disk reports an input/output error",
}


# Libraries written in Rust (safetensors) keep the number of a system's error in their message alone.
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")

# How a job goes on, on the command line and in RELION.
RUN_AGAIN = "the same command resumes from its last checkpoint"
CONTINUE = "Continue resumes it from its last checkpoint"


def heeded_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that end this process: those that whoever started it has it ignore, as nohup, stay ignored."""
    return tuple(number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN)


@dataclass(frozen=True)
class Failure:
    """Sentence for the user, and the exit status of the process."""

    sentence: str
    exit_code: int


def explain(error: BaseException, going_on: str = RUN_AGAIN) -> Failure:
    """Translate any exception into one line of text and an exit status.

    Parameters
    ----------
    error : BaseException
    going_on : str
        How the user continues an interrupted job, in the words of the suite: a main clause without a full stop.

    Notes
    -----
    Errors that this package raises on purpose speak for themselves; those of the operating system get the file
    and what to do; anything else is named as unexpected, with a pointer to the traceback in run.log.
    """
    if isinstance(error, (JobAborted, KeyboardInterrupt)):
        return Failure(f"the job was aborted; {going_on}.", EXIT_ABORTED)
    if isinstance(error, InputError):
        return Failure(_one_line(str(error)), EXIT_INPUT_ERROR)
    if isinstance(error, CryodrgnExtError):
        return Failure(_one_line(str(error)), EXIT_FAILURE)
    if isinstance(error, MemoryError) or _is_torch_out_of_memory(error):
        return Failure(
            f"out of memory: use a smaller --box or --batch, or a machine with more memory; {going_on}.",
            EXIT_FAILURE,
        )
    if isinstance(error, OSError) and error.errno is not None:
        name = f"{error.filename}: " if error.filename is not None else ""
        advice = _ADVICE.get(error.errno, error.strerror or "the operating system refused")
        return Failure(_one_line(f"{name}{advice}."), EXIT_FAILURE)
    if hidden := _RUST_ERROR.search(str(error)):
        number = int(hidden.group(1))
        return explain(OSError(number, os.strerror(number)), going_on)
    if isinstance(error, SystemExit):
        return Failure(f"the job ended early (exit status {error.code}) without a result.", EXIT_FAILURE)
    return Failure(
        _one_line(f"unexpected {type(error).__name__}: {error} (the full traceback is in run.log)."), EXIT_FAILURE
    )


def check_working_directory() -> None:
    """See that there is one: libraries end a process where there is none, without a word that a user understands.

    Raises
    ------
    InputError
        When it was removed, or never was.
    """
    try:
        os.getcwd()
    except OSError:
        raise InputError(
            "the working directory has been removed: change to one that exists (to the project directory), and start "
            "the command there."
        ) from None


@contextlib.contextmanager
def recorded_failure(directory: Path) -> Iterator[None]:
    """Write into job.yaml of a directory that its job failed, or was aborted, when it ends with an error."""
    try:
        yield
    except BaseException as error:
        from cryodrgn_ext.results.record import end_record  # it reads YAML, which helps and templates need not

        aborted = isinstance(error, (JobAborted, KeyboardInterrupt))
        end_record(directory, "aborted" if aborted else "failed", explain(error).sentence)
        raise


def _is_torch_out_of_memory(error: BaseException) -> bool:
    """Recognise torch's allocation failures without importing torch."""
    text = str(error).lower()
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())

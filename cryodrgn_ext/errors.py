"""The one family of errors that the library raises.

Every message is one sentence (or two) that a user can act on: which file, which row or field, what was
expected, what was found, what to do. Entry points print the message without a traceback and exit non-zero.
"""

from __future__ import annotations

import os
from pathlib import Path


class CryodrgnExtError(Exception):
    """Root of all errors raised on purpose by this package."""


class InputError(CryodrgnExtError):
    """The user's input is wrong: a file, a row, a field or an option. Exit status 2."""


class JobAborted(CryodrgnExtError):
    """The user asked the running job to stop (RELION's Abort button, a killed CryoSPARC job)."""


class ResumeError(CryodrgnExtError):
    """A checkpoint or a half-built result cannot be continued with the given settings."""


def looked_in(path: Path) -> str:
    """Return where a relative path was looked for, to end a sentence with: a queue may start jobs elsewhere."""
    return "" if path.is_absolute() else f" in the working directory, {os.getcwd()}"

"""One run at a time in a result directory."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryodrgn_ext.errors import InputError

LOCK_NAME = ".lock"


@contextmanager
def directory_lock(directory: Path, patience_s: float = 3.0) -> Iterator[None]:
    """Hold the lock of a result directory; children made by fork hold it too, until the last one ends.

    Parameters
    ----------
    directory : Path
        Must exist and be writable.
    patience_s : float
        How long to wait for a run that is just ending (a worker whose parent was killed).

    Raises
    ------
    InputError
        When another run holds the lock.
    OSError
        When the lock file cannot be made.
    """
    descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    break  # a file system without locks: work unguarded rather than not at all
                if time.monotonic() > deadline:
                    raise InputError(
                        f"another run is at work in {directory}: wait for it to end or stop it first."
                    ) from None
                time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)

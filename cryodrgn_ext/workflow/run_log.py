"""run.log of a result directory: everything that a run said, and the traceback of what went wrong."""

from __future__ import annotations

import io
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from cryodrgn_ext import __version__
from cryodrgn_ext.progress import Monitor, Screen

LOG_NAME = "run.log"


class _Tee(io.TextIOBase):
    """Writes to the screen (or run.out) and, line by line with the time, to run.log."""

    def __init__(self, screen: Screen, log: TextIO) -> None:
        self._screen = screen
        self._log = log
        self._broken = False

    def isatty(self) -> bool:
        """Whether the screen is a terminal, which gets a bar that redraws itself."""
        return self._screen.isatty()

    def write(self, text: str) -> int:
        """Write to both; the lines of a redrawn bar go to the screen only."""
        try:
            self._screen.write(text)
        except BrokenPipeError:
            self._broken = True
        if "\r" not in text:
            stamp = time.strftime("%H:%M:%S ")
            for line in text.splitlines():
                self._log.write(stamp + line + "\n")
        return len(text)

    def flush(self) -> None:
        """Flush both."""
        if not self._broken:
            self._screen.flush()
        self._log.flush()


@contextmanager
def logged_run(
    directory: Path, title: str, abort_requested: Callable[[], bool] | None = None, screen: Screen | None = None
) -> Iterator[Monitor]:
    """Yield a Monitor that writes to the screen and appends to ``directory``/run.log.

    An exception that leaves the block is written to run.log with its traceback, and raised on.

    Parameters
    ----------
    directory : Path
        Result directory; made when missing.
    title : str
        What runs, for the log's first line.
    abort_requested : callable, optional
        Polled by the Monitor.
    screen : Screen, optional
        Standard output when omitted.

    Raises
    ------
    OSError
        When the directory or the log cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / LOG_NAME, "a", encoding="utf-8", errors="replace") as log:
        log.write(f"=== {title}, cryodrgn-ext {__version__}, {time.strftime('%Y-%m-%d %H:%M:%S')} ===\n")
        tee = _Tee(sys.stdout if screen is None else screen, log)
        try:
            yield Monitor(stream=tee, abort_requested=abort_requested)
        except BaseException:
            log.write(traceback.format_exc())
            raise

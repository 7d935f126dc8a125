"""Progress, messages and cooperative abort of long work, without knowing who listens.

Long loops take a :class:`Monitor`. They call :meth:`Monitor.track` to iterate (which draws a bar with an
estimate on a terminal, and prints one line now and then into a log file) and thereby also poll for an abort
several times a second. Entry points subclass nothing: they pass an ``abort_requested`` function.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from cryodrgn_ext.errors import JobAborted

T = TypeVar("T")
LOG_INTERVAL_S = 30.0
POLL_INTERVAL_S = 0.5


def _duration(seconds: float) -> str:
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


#: How warnings begin, in logs as in reports.
WARNING = "Warning: "


class Screen(Protocol):
    """What is asked of a stream that messages go to: text streams have it."""

    def write(self, text: str, /) -> int:
        """Take text."""

    def flush(self) -> None:
        """Show what was taken."""

    def isatty(self) -> bool:
        """Whether this is a terminal."""


def open_standard_streams() -> None:
    """Make standard output and error take every letter of a message, and be there at all.

    A locale of ASCII or Latin-1 has no letter for all that names of files hold: escapes stand for them. Where a shell
    or scheduler closed a stream, the next file to be opened would take its number, and with it whatever a library
    prints; nothing takes that instead.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open as long as the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class Monitor:
    """Receiver of the messages, progress and warnings of long work.

    Parameters
    ----------
    stream : Screen, optional
        Where messages go; standard output when omitted. A terminal gets a bar that redraws itself, anything
        else one line per ``LOG_INTERVAL_S`` at most.
    abort_requested : callable, optional
        Polled at most every ``POLL_INTERVAL_S`` seconds; when it returns True, :class:`JobAborted` is raised at
        the next step of the running loop.
    """

    def __init__(self, stream: Screen | None = None, abort_requested: Callable[[], bool] | None = None) -> None:
        self._stream: Screen = sys.stdout if stream is None else stream
        self._abort_requested = abort_requested
        self._last_poll = 0.0
        self.warnings: list[str] = []

    def message(self, text: str) -> None:
        """Write one line and flush, so that a suite that tails the log shows it at once."""
        self._stream.write(text + "\n")
        self._stream.flush()

    def warn(self, text: str) -> None:
        """Write a line, named a warning, that the user should see again in the report: it is kept in ``warnings``."""
        if not text.startswith(WARNING):
            text = WARNING + text
        self.warnings.append(text)
        self.message(text)

    def poll(self) -> None:
        """Raise :class:`JobAborted` if the user asked to stop. Cheap enough for inner loops."""
        if self._abort_requested is None:
            return
        now = time.monotonic()
        if now - self._last_poll >= POLL_INTERVAL_S:
            self._last_poll = now
            if self._abort_requested():
                raise JobAborted("the job was aborted by the user")

    def track(self, items: Iterable[T], description: str, total: int, unit: int = 1) -> Iterator[T]:
        """Iterate over ``items``, reporting progress and polling for an abort before each.

        Parameters
        ----------
        items : iterable
        description : str
            What is being done, in a few words.
        total : int
            Number of things (images, volumes) in all; ``unit`` of them are done per item.
        """
        start = last_report = time.monotonic()
        terminal = self._stream.isatty()
        done = 0
        for item in items:
            self.poll()
            yield item
            done = min(done + unit, total)
            now = time.monotonic()
            if now - last_report >= (0.2 if terminal else LOG_INTERVAL_S) and done < total:
                last_report = now
                left = (now - start) * (total - done) / done
                line = f"{description}: {done}/{total} ({100 * done // total} %), {_duration(left)} left"
                self._stream.write(f"\r\x1b[K{line}" if terminal else line + "\n")
                self._stream.flush()
        elapsed = time.monotonic() - start
        line = f"{description}: {total} done in {_duration(elapsed)}"
        if terminal:
            self._stream.write("\r\x1b[K")
        if terminal or elapsed >= 1.0:
            self.message(line)


class SilentMonitor(Monitor):
    """Reports nothing and never aborts: for library use and tests."""

    def message(self, text: str) -> None:
        """Swallow the message."""

    def track(self, items: Iterable[T], description: str, total: int, unit: int = 1) -> Iterator[T]:
        """Iterate without a report."""
        yield from items


class QuietMonitor(SilentMonitor):
    """Says nothing of a part of a job, but aborts when the job shall.

    Parameters
    ----------
    job : Monitor
        Whose user is asked.
    """

    def __init__(self, job: Monitor) -> None:
        super().__init__()
        self._job = job

    def poll(self) -> None:
        """Ask as the job does."""
        self._job.poll()

    def track(self, items: Iterable[T], description: str, total: int, unit: int = 1) -> Iterator[T]:
        """Iterate without a report, polling for an abort before each."""
        for item in items:
            self.poll()
            yield item

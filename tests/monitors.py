"""Monitors of tests: they remember what they hear, and ask to stop where they are told."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from cryodrgn_ext.errors import JobAborted
from cryodrgn_ext.progress import Monitor

S = TypeVar("S")
T = TypeVar("T")


def said_by(job: Callable[[S, Monitor], object], settings: S) -> str:
    """Run a job; return all that it said."""
    said = io.StringIO()
    job(settings, Monitor(said))
    return said.getvalue()


class RecordingMonitor(Monitor):
    """Keeps what a job says, and aborts it like a user who presses the button, if asked to.

    Parameters
    ----------
    polls, steps : int, optional
        Abort after so many polls, or at the step after so many in loops.
    at : callable, optional
        Abort at the first message of which this is true.
    when : callable, optional
        Abort at the first poll at which this is true.

    Attributes
    ----------
    lines : list of str
        Messages.
    polled, stepped : int
        How many polls and steps there were.
    """

    def __init__(
        self,
        *,
        polls: int | None = None,
        steps: int | None = None,
        at: Callable[[str], bool] | None = None,
        when: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__(io.StringIO())
        self.lines: list[str] = []
        self.polled = self.stepped = 0
        self._polls, self._steps, self._at, self._when = polls, steps, at, when

    def message(self, text: str) -> None:
        self.lines.append(text)
        if self._at is not None and self._at(text):
            raise JobAborted(f"aborted at: {text}")

    def poll(self) -> None:
        self.polled += 1
        if (self._polls is not None and self.polled > self._polls) or (self._when is not None and self._when()):
            raise JobAborted("aborted")

    def track(self, items: Iterable[T], description: str, total: int, unit: int = 1) -> Iterator[T]:
        for item in items:
            self.poll()
            self.stepped += 1
            if self._steps is not None and self.stepped > self._steps:
                raise JobAborted("aborted")
            yield item

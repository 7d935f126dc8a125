"""The life of an External job: one true status in every way out, driven by us and not by ``with job.run()``.

The client's own block marks a job as completed after Ctrl-C, after SystemExit and after it was killed in the web page,
and leaves it running when the traceback is long. Here everything that ends the work early marks the job as failed, with
one sentence; a job that was killed, or that no longer runs for any other reason, is noticed within
``POLL_S`` seconds, stops the work through the Monitor, and keeps the status that it was given.
"""

from __future__ import annotations

import io
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TextIO, TypeVar

from cryodrgn_ext.errors import JobAborted
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.workflow.failure import explain, heeded_signals
from cryodrgn_ext.workflow.run_log import logged_run
from cryosparc_jobs.errors import MasterError
from cryosparc_jobs.external_job import ExternalJob

T = TypeVar("T")
POLL_S = 10.0
LOG_INTERVAL_S = 5.0
TICK_S = 0.25
RUNNING = ("running", "waiting")
# How often the end of a job is reported to a master that does not answer, and the first pause, which doubles: four
# minutes in all, about what a restart of the master takes.
END_ATTEMPTS = 8
END_PAUSE_S = 2.0
RUN_AGAIN = "run it again in its result directory (directory=, --directory) to go on from its last checkpoint"
# Lines that wait for a master that does not answer.
LONGEST_BACKLOG = 2000
_PROGRESS = re.compile(r"^(?P<what>.+): \d+/\d+ \(\d+ %\), .+ left$")


class EventLog(io.TextIOBase):
    """A text stream whose lines reach the job's event log at a human rate.

    Lines that come within one interval are posted together; a report of progress replaces the last one of its kind.
    A master that does not answer delays lines, and is no reason for the work to stop.

    Parameters
    ----------
    job : ExternalJob
    interval_s : float
        Least time between two posts.
    echo : text stream, optional
        Gets everything at once.
    """

    def __init__(self, job: ExternalJob, interval_s: float = LOG_INTERVAL_S, echo: TextIO | None = None) -> None:
        super().__init__()
        self._echo = echo
        self._job = job
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._posting = threading.Lock()
        self._partial = ""
        self._lines: list[str] = []
        self._progress: dict[str, str] = {}
        self._last_post = float("-inf")

    def writable(self) -> bool:
        """Whether lines can be written."""
        return True

    def write(self, text: str) -> int:
        """Take text; nothing is sent yet."""
        if self._echo is not None:
            self._echo.write(text)
        with self._lock:
            *lines, self._partial = (self._partial + text).split("\n")
            for line in lines:
                found = _PROGRESS.match(line)
                if found:
                    self._progress[found["what"]] = line
                elif line:
                    self._lines.append(line)
            del self._lines[:-LONGEST_BACKLOG]
        return len(text)

    def post(self, now: bool = False) -> None:
        """Send what has come, if it is time (or ``now``).

        Raises
        ------
        MasterError
            With ``now``, when the master does not take it; otherwise the lines wait.
        """
        if not now and time.monotonic() - self._last_post < self._interval_s:
            return
        with self._posting:
            with self._lock:
                lines, self._lines = self._lines, []
                progress, self._progress = self._progress, {}
            try:
                self._last_post = time.monotonic()
                if lines:
                    self._job.log("\n".join(lines))
                    lines = []
                for what in list(progress):
                    self._job.log(progress[what], name=what)
                    del progress[what]
            except MasterError:
                with self._lock:
                    self._lines = (lines + self._lines)[-LONGEST_BACKLOG:]
                    self._progress = progress | self._progress
                if now:
                    raise


class Watch:
    """A thread that posts the log and asks for the status, so that neither ever holds up the work.

    Attributes
    ----------
    status : str
        The status that the job was given from outside, as ``killed``; "" while it is ours.
    signal_name : str
        The signal that asked to stop; "" for none.
    started, closed : bool
    """

    def __init__(self, job: ExternalJob, log: EventLog, poll_s: float = POLL_S) -> None:
        self.status = ""
        self.signal_name = ""
        self.started = False
        self.closed = False
        self._job, self._log, self._poll_s = job, log, poll_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch {job.uid}", daemon=True)

    def __call__(self) -> bool:
        """Whether the work must stop, for a Monitor."""
        return bool(self.status or self.signal_name)

    def reason(self) -> str:
        """Why the work must stop, in a sentence."""
        if self.status:
            return f"the job was stopped: it is {self.status} in CryoSPARC"
        return f"the job was interrupted on the machine where it ran ({self.signal_name or 'KeyboardInterrupt'})"

    def start(self) -> None:
        """Begin."""
        self.started = True
        self._thread.start()

    def close(self) -> None:
        """Post what is left of the log and let the thread finish; one that waits for an answer is left behind."""
        if self.closed:
            return
        self.closed = True
        self._end.set()
        if self.started:
            self._thread.join(timeout=self._poll_s)
            with suppress(MasterError):
                self._log.post(now=True)

    def look(self) -> None:
        """Ask for the status once.

        Raises
        ------
        MasterError
            When the master does not answer.
        """
        status = self._job.status()
        if status not in RUNNING and not self.status:
            self.status = status

    def _run(self) -> None:
        next_look = time.monotonic() + self._poll_s
        while not self._end.wait(min(TICK_S, self._poll_s)):
            # A master that is away for a while (a restart, an update) is no reason to lose hours of work.
            with suppress(MasterError):
                self._log.post()
                if time.monotonic() >= next_look:
                    next_look = time.monotonic() + self._poll_s
                    self.look()


def run_external_job(
    job: ExternalJob,
    directory: Path,
    title: str,
    work: Callable[[Monitor], T],
    poll_s: float = POLL_S,
    log_interval_s: float = LOG_INTERVAL_S,
) -> T:
    """Run ``work`` as a created and connected External job.

    Parameters
    ----------
    job : ExternalJob
    directory : Path
        Where run.log goes, which also gets the traceback of what went wrong.
    title : str
        What runs.
    work : callable
        Gets a Monitor; whatever it reports goes to run.log and, at a human rate, to the job's event log.
    poll_s : float
        Seconds between two looks at the job's status.
    log_interval_s : float
        Least seconds between two posts to the event log.

    Returns
    -------
    object
        What ``work`` returned; the job is completed then.

    Raises
    ------
    BaseException
        Whatever ended the work: the job is marked as failed then, or keeps the status that it was given from outside
        (``JobAborted``).
    MasterError
        When the job cannot be started, or its end cannot be reported.
    """
    log = EventLog(job, log_interval_s, echo=sys.stdout)
    watch = Watch(job, log, poll_s)
    with _stop_signals(watch):
        try:
            job.start()
            watch.start()
            with logged_run(directory, title, watch, log) as monitor:
                result = work(monitor)
                # The last look; what is killed between here and the mark is the client's race, not ours to close.
                _report(watch.look)
                if watch():
                    raise JobAborted(watch.reason())
            watch.close()
            _report(job.complete)
        except BaseException as error:
            watch.close()
            _end_early(job, watch, error)
            if watch.status and isinstance(error, Exception) and not isinstance(error, JobAborted):
                raise JobAborted(watch.reason()) from error
            raise
        return result


def _end_early(job: ExternalJob, watch: Watch, error: BaseException) -> None:
    """Mark the job as failed, unless it was given another status from outside; never raises for the network's sake."""
    sentence = watch.reason() if watch() or isinstance(error, KeyboardInterrupt) else explain(error, RUN_AGAIN).sentence
    try:
        if not watch.started:  # it could not be marked as running: the page shall say why
            job.log(sentence, level="error")
            return
        # Whoever kills a job makes its uploads fail: look before blaming the consequence.
        _report(watch.look)
        if watch.status:
            job.log(watch.reason(), level="warning")
            return
        _report(lambda: job.fail(sentence))
    except MasterError as unreachable:
        sys.stderr.write(
            f"WARNING: CryoSPARC does not know how job {job.project}-{job.uid} ended ({unreachable}); it may stay "
            f"shown as running until you kill it in the web page. The job ended because: {sentence}\n"
        )


def _report(action: Callable[[], None]) -> None:
    """Do something that matters at the end, and try again when the master does not answer."""
    for attempt in range(END_ATTEMPTS):
        try:
            action()
            return
        except MasterError as error:
            if attempt == END_ATTEMPTS - 1 or not error.transient:
                raise
            time.sleep(END_PAUSE_S * 2 ** min(attempt, 5))


@contextmanager
def _stop_signals(watch: Watch) -> Iterator[None]:
    """Turn the first signal that asks to stop into an exception; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        if watch.closed or watch.signal_name:
            return
        watch.signal_name = signal.Signals(number).name
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    # What is ignored (nohup, a shell's background job) stays ignored.
    previous = {number: signal.signal(number, stop) for number in heeded_signals()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

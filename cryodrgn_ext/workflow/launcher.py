"""A job on several processes: one leads and runs every stage, the others help with the training.

The leader is the process that the user, RELION or CryoSPARC started: it alone holds the lock, writes files and
messages and answers to an abort. Helpers come in one of two ways:

- ``--processes P``: the leader starts P - 1 of its own on the same machine when the training begins, and ends them
  with it. Nothing else has to be known, so it also works from RELION's window and from a queue script.
- torchrun (one or more machines): every process runs the same command; all but the first wait for the training.

A helper that fails ends the job: its message appears, and the leader stops at the next exchange.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

from cryodrgn_ext.engines.distributed import Workers, environment_rank, join
from cryodrgn_ext.errors import CryodrgnExtError, InputError
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.settings import Settings, from_mapping
from cryodrgn_ext.workflow.failure import EXIT_FAILURE, explain
from cryodrgn_ext.workflow.threads import use_threads

READY = "ready"
START_PATIENCE_S = 3600.0  # reading the metadata of millions of particles takes minutes
END_PATIENCE_S = 10.0


class Worker(ABC):
    """What a helper of a job can do; made from the job's settings, it has read its inputs."""

    @abstractmethod
    def work(self) -> None:
        """Take part in what is shared; called within the group."""


def is_helper() -> bool:
    """Whether torchrun started this process as a helper."""
    return environment_rank()[0] > 0


class Team:
    """The leader's view of its helpers.

    Parameters
    ----------
    job : str
        Name of the job, for helpers that are started here.
    settings : Settings
        Of the job, with ``processes`` and ``j``.
    monitor : Monitor
    """

    def __init__(self, job: str, settings: Settings, monitor: Monitor) -> None:
        self.job, self.settings, self.monitor = job, settings, monitor
        self._by_torchrun = environment_rank()[1] > 1
        self._met = False
        self.processes: int = getattr(settings, "processes", 1)
        if self._by_torchrun and self.processes > 1:
            raise InputError("--processes is given under torchrun, which starts the processes itself: leave it out")

    @contextmanager
    def assembled(self) -> Iterator[Workers]:
        """Have all processes take part while the block runs."""
        if self._by_torchrun:
            self._met = True
            with join() as group:
                group.share({"work": True})
                yield group
        elif self.processes > 1:
            with _helpers(self.job, self.settings, self.processes, self.monitor), join() as group:
                group.share({"work": True})
                yield group
        else:
            yield Workers()

    def dismiss(self) -> None:
        """Let helpers of torchrun go when there was nothing to help with."""
        if self._by_torchrun and not self._met:
            self._met = True
            with join() as group:
                group.share({"work": False})


@contextmanager
def _helpers(job: str, settings: Settings, processes: int, monitor: Monitor) -> Iterator[None]:
    """Start helpers on this machine, wait until they have read their inputs, and end them with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    announced = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    threads = max(1, (getattr(settings, "j", 0) or len(os.sched_getaffinity(0))) // processes)
    monitor.message(f"Training on {processes} processes with {threads} threads each ...")
    command = [sys.executable, "-m", "cryodrgn_ext.workflow.launcher", job, json.dumps(settings.to_mapping())]
    running: list[subprocess.Popen[str]] = []
    before = {name: os.environ.get(name) for name in (*announced, "RANK", "LOCAL_RANK")}
    try:
        for rank in range(1, processes):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": str(threads)}
            running.append(
                subprocess.Popen(
                    command, env={**os.environ, **announced, **own}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    text=True,
                )
            )  # fmt: skip
        for rank, process in enumerate(running, start=1):
            _await_ready(rank, process, monitor)
        os.environ.update({**announced, "RANK": "0", "LOCAL_RANK": "0"})
        use_threads(threads)
        yield
        for process in running:
            process.wait(END_PATIENCE_S)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _end(running)


def _await_ready(rank: int, process: subprocess.Popen[str], monitor: Monitor) -> None:
    """Wait for a helper's word, polling for an abort.

    Raises
    ------
    CryodrgnExtError
        When the helper ends instead.
    """
    stream = _pipe(process.stdout)
    waited = 0.0
    while waited < START_PATIENCE_S:
        monitor.poll()
        if select.select([stream], [], [], 0.5)[0]:
            if stream.readline().strip() == READY:
                return
            raise CryodrgnExtError(
                f"process {rank} of the training ended before it began (exit status {process.wait()}); its own message "
                "says why"
            )
        waited += 0.5
    raise CryodrgnExtError(f"process {rank} of the training has not begun within {START_PATIENCE_S:.0f} s")


def _end(running: Sequence[subprocess.Popen[str]]) -> None:
    """End helpers that are still there; their input closes with the leader, should it die before this."""
    for process in running:
        if process.poll() is None:
            process.terminate()
    for process in running:
        try:
            process.wait(END_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise ValueError("the helper has no pipe")
    return stream


def help_with(job: str, settings: Settings) -> None:
    """Be a helper until the leader is done: what a process of torchrun other than the first does.

    Raises
    ------
    InputError
        When the job has nothing to share.
    """
    worker = _worker(job, settings)
    with join() as group:
        if group.share()["work"]:
            worker.work()


def _worker(job: str, settings: Settings) -> Worker:
    """The helper of a job; the settings' number of threads holds."""
    if job != "train":
        raise InputError(f"the job {job} runs in one process: start it without torchrun")
    from cryodrgn_ext.jobs.options.train import TrainSettings
    from cryodrgn_ext.jobs.train_engine import TrainWorker

    if not isinstance(settings, TrainSettings):
        raise TypeError(f"TrainSettings expected, got {type(settings).__name__}")
    return TrainWorker(settings)


def _words(value: Any) -> str | list[str]:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return [str(part) for part in value] if isinstance(value, list) else str(value)


def _leave_with_the_leader() -> None:
    """End this process when the leader's end of the pipe closes."""

    def watch() -> None:
        sys.stdin.read()
        os._exit(EXIT_FAILURE)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Be a helper that a leader started: job and settings as JSON on the command line."""
    job, text = sys.argv[1:] if arguments is None else arguments
    rank = environment_rank()[0]
    _leave_with_the_leader()
    try:
        from cryodrgn_ext.jobs.registry import JOBS

        mapping: Mapping[str, Any] = json.loads(text)
        given = {name: _words(value) for name, value in mapping.items() if value is not None and value != []}
        worker = _worker(job, from_mapping(JOBS[job].settings_class, given))
        sys.stdout.write(READY + "\n")
        sys.stdout.flush()
        with join() as group:
            if group.share()["work"]:
                worker.work()
    except (CryodrgnExtError, OSError, MemoryError, RuntimeError) as error:
        failure = explain(error)
        sys.stderr.write(f"ERROR (process {rank}): {failure.sentence}\n")
        return failure.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

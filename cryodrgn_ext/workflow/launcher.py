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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

from cryodrgn_ext.engines.distributed import Workers, environment_rank, join
from cryodrgn_ext.errors import CryodrgnExtError, InputError
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.settings import Settings
from cryodrgn_ext.workflow.compiler_cache import have_compiler_cache
from cryodrgn_ext.workflow.failure import EXIT_FAILURE, explain
from cryodrgn_ext.workflow.own_program import module_command
from cryodrgn_ext.workflow.threads import use_threads

READY = "ready"
START_PATIENCE_S = 3600.0  # reading the metadata of millions of particles takes minutes
END_PATIENCE_S = 10.0
CONNECT_PATIENCE_S = 10.0


class Worker(ABC):
    """A helper of a job; made from the job's settings, it has read its inputs."""

    @abstractmethod
    def work(self) -> None:
        """Take part in what is shared; called within the group."""


def is_helper() -> bool:
    """Whether torchrun started this process as a helper."""
    return environment_rank()[0] > 0


def helper_command(module: str, job: str, settings: Settings) -> list[str]:
    """Command line that starts a helper: the module gets the job's name and its settings as JSON, see :func:`serve`."""
    return module_command(module, job, json.dumps(settings.to_mapping()))


class ProcessGroup:
    """The processes of a job, as the leader sees them.

    Parameters
    ----------
    processes : int
        In all; torchrun starts them itself.
    threads : int
        CPU threads of all of them together; 0 for those of the machine.
    helper_command : sequence of str
        Command line of a helper that is started here; it ends in :func:`serve`.
    monitor : Monitor

    Raises
    ------
    InputError
        When several processes are asked for under torchrun.
    """

    def __init__(self, processes: int, threads: int, helper_command: Sequence[str], monitor: Monitor) -> None:
        self.processes, self.threads, self.helper_command, self.monitor = processes, threads, helper_command, monitor
        self._by_torchrun = environment_rank()[1] > 1
        self._met = False
        if self._by_torchrun and processes > 1:
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
            with self._helpers(), join() as group:
                group.share({"work": True})
                yield group
        else:
            yield Workers()

    def dismiss(self) -> None:
        """Let helpers of torchrun end when there was nothing to help with."""
        if self._by_torchrun and not self._met:
            self._met = True
            with join() as group:
                group.share({"work": False})

    @contextmanager
    def _helpers(self) -> Iterator[None]:
        """Start helpers on this machine, wait until they have read their inputs, and end them with the block."""
        processes = self.processes
        port = _free_port()
        announced = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        threads = max(1, (self.threads or len(os.sched_getaffinity(0))) // processes)
        self.monitor.message(f"Training on {processes} processes with {threads} threads each ...")
        running: list[subprocess.Popen[str]] = []
        before = {name: os.environ.get(name) for name in (*announced, "RANK", "LOCAL_RANK")}
        try:
            for rank in range(1, processes):
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": str(threads)}
                running.append(
                    subprocess.Popen(
                        self.helper_command, env={**os.environ, **announced, **own}, stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE, text=True,
                    )
                )  # fmt: skip
            for rank, process in enumerate(running, start=1):
                _await_ready(rank, process, self.monitor)
            os.environ.update({**announced, "RANK": "0", "LOCAL_RANK": "0"})
            use_threads(threads)
            yield
            for process in running:
                process.wait(END_PATIENCE_S)
        finally:
            _restore(before)
            _end(running)


def _free_port() -> int:
    """Return a port of this machine by which its processes can reach each other.

    Raises
    ------
    InputError
        When they cannot: they would wait for each other without end.
    """
    with socket.socket() as probe, socket.socket() as other:
        probe.bind(("127.0.0.1", 0))
        probe.listen()
        port: int = probe.getsockname()[1]
        try:
            other.settimeout(CONNECT_PATIENCE_S)
            other.connect(("127.0.0.1", port))
        except OSError as error:
            raise InputError(
                f"processes on this machine cannot reach each other by 127.0.0.1 ({error.strerror or error}): have the "
                "loopback interface set up (ip link set lo up), or leave --processes out"
            ) from None
    return port


def _restore(environment: Mapping[str, str | None]) -> None:
    """Set variables of the environment; None removes one."""
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


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


def help_with(worker: Worker) -> None:
    """Be a helper until the leader is done: what a process of torchrun other than the first does."""
    have_compiler_cache()  # of a helper on another machine; those on this one have what the leader found
    with join() as group:
        if group.share()["work"]:
            worker.work()


def _leave_with_the_leader() -> None:
    """End this process when the leader's end of the pipe closes."""

    def watch() -> None:
        sys.stdin.read()
        os._exit(EXIT_FAILURE)

    threading.Thread(target=watch, daemon=True).start()


def serve(make_worker: Callable[[], Worker]) -> int:
    """Be a helper that a leader started; returns the exit status of the process.

    Parameters
    ----------
    make_worker : callable
        Reads the inputs; the leader waits until it has returned.
    """
    rank = environment_rank()[0]
    _leave_with_the_leader()
    try:
        worker = make_worker()
        sys.stdout.write(READY + "\n")
        sys.stdout.flush()
        help_with(worker)
    except (CryodrgnExtError, OSError, MemoryError, RuntimeError) as error:
        failure = explain(error)
        sys.stderr.write(f"ERROR (process {rank}): {failure.sentence}\n")
        return failure.exit_code
    return 0

"""Processes that train together: who is who, which rows are whose, and the sums over all of them.

Every engine runs the same code in one process or in many. :func:`current` says which process this is; alone, every
operation here does nothing and costs nothing. Processes are started by torchrun, or by a job that starts its own
(:mod:`cryodrgn_ext.workflow.launcher`); both set the environment that :func:`join` reads. Tensors on a GPU are summed
by NCCL, those on a CPU by Gloo, which adds in a fixed order: results do not change from run to run.

Rows are shared out in contiguous shards, so that each process reads its own stretch of the coefficient store.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cryodrgn_ext.errors import CryodrgnExtError, InputError

WAIT = timedelta(days=14)  # followers wait while the first process does what is not shared


class PeerLost(CryodrgnExtError):
    """Another process of the group ended before its time: its own message says why."""


@dataclass(frozen=True)
class Workers:
    """The group as one process sees it.

    Attributes
    ----------
    rank : int
        Number of this process, 0..size - 1; the first one reads, writes and talks.
    size : int
        Number of processes.
    """

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank must lie in 0..{self.size - 1}, got {self.rank}")

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    def shard(self, n: int) -> range:
        """Rows of this process, of ``n`` in all: contiguous, and as many as others have, or one more or less."""
        return range(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def sum(self, *tensors: Tensor) -> None:
        """Add each tensor over all processes, in place. Every process calls it with the same shapes and dtypes.

        Raises
        ------
        PeerLost
            When another process has ended.
        """
        if self.size == 1:
            return
        for tensor in tensors:
            if not tensor.is_contiguous():
                raise ValueError("only contiguous tensors can be summed in place")
            with _peers():
                dist.all_reduce(torch.view_as_real(tensor) if tensor.is_complex() else tensor)

    def gather_rows(self, local: Tensor, n: int) -> Tensor:
        """Put the shards together: (rows of :meth:`shard`, ...) of each process -> (n, ...) on every process.

        Raises
        ------
        PeerLost
            When another process has ended.
        """
        if len(local) != len(self.shard(n)):
            raise ValueError(f"process {self.rank} has {len(self.shard(n))} of {n} rows, got {len(local)}")
        if self.size == 1:
            return local
        most = -(-n // self.size)
        padded = local.new_zeros((most, *local.shape[1:]))
        padded[: len(local)] = local
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        with _peers():
            dist.all_gather(parts, padded)
        return torch.cat([part[: len(Workers(r, self.size).shard(n))] for r, part in enumerate(parts)])

    def share(self, message: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Hand a message (plain JSON) from the first process to all; the others call it without and wait for it.

        Raises
        ------
        PeerLost
            When another process has ended.
        """
        if self.size == 1:
            return dict(message or {})
        text = json.dumps(message or {}).encode() if self.is_first else b""
        length = torch.tensor([len(text)])
        with _peers():
            dist.broadcast(length, 0)
            data = torch.zeros(int(length), dtype=torch.uint8)
            if self.is_first:
                data[:] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
            dist.broadcast(data, 0)
        received: dict[str, Any] = json.loads(bytes(data.tolist()))
        return received


@contextmanager
def _peers() -> Iterator[None]:
    """Turn a broken connection into one sentence."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(
            "another process of this job has ended: its own message says why; where there is none, it was killed, as "
            f"machines do that run out of memory ({_first(error)})"
        ) from None


def _first(error: Exception) -> str:
    """Return what happened, without where in a library, and without its advice."""
    lines = str(error).splitlines()
    return re.sub(r"^\[[^]]*\] *|\. This is typically .*$", "", lines[0]) if lines else type(error).__name__


_here = Workers()


def current() -> Workers:
    """The group that this process has joined, or this process alone."""
    return _here


def processes_here() -> int:
    """How many processes of the group share this machine: as torchrun says, else all of them."""
    said = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(said) if said.isdecimal() and int(said) > 0 else current().size


def environment_rank() -> tuple[int, int]:
    """Rank and number of processes that torchrun (or a job) announces in the environment: (0, 1) when none does.

    Raises
    ------
    InputError
        When the announcement is not understood.
    """
    words = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    if words["WORLD_SIZE"] is None or words["RANK"] is None:
        return 0, 1
    try:
        rank, size = int(words["RANK"]), int(words["WORLD_SIZE"])
        Workers(rank, size)
    except ValueError:
        raise InputError(
            f"RANK={words['RANK']} and WORLD_SIZE={words['WORLD_SIZE']} in the environment are not those of a torchrun "
            "process: start the job with torchrun, or remove these variables"
        ) from None
    if size > 1 and (words["MASTER_ADDR"] is None or words["MASTER_PORT"] is None):
        raise InputError(
            f"WORLD_SIZE is {size}, but MASTER_ADDR or MASTER_PORT is missing in the environment: start with torchrun"
        )
    return rank, size


@contextmanager
def join() -> Iterator[Workers]:
    """Be part of the group that the environment announces while the block runs; alone when it announces none.

    Raises
    ------
    InputError
        When the environment is not understood.
    PeerLost
        When the others cannot be reached.
    """
    global _here
    rank, size = environment_rank()
    if size == 1:
        yield _here
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    # Its functions take the group that exists when it is imported as a default, and optimisers import it: imported
    # later, it would keep this group beyond its end, and the group's threads abort a process that exits before them.
    importlib.import_module("torch.distributed.nn.functional")
    with _peers():
        dist.init_process_group(backend, rank=rank, world_size=size, timeout=WAIT)
    _here = Workers(rank, size)
    try:
        yield _here
    finally:
        _here = Workers()
        dist.destroy_process_group()

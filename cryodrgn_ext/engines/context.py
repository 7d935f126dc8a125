"""Surroundings of a run of an engine, besides images and options: device, memory, seed, checkpoints and monitor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from cryodrgn_ext.engines.devices import choose_device
from cryodrgn_ext.engines.distributed import processes_here
from cryodrgn_ext.engines.free_memory import free_memory
from cryodrgn_ext.engines.settings import ComputeSettings
from cryodrgn_ext.progress import Monitor

GIGABYTE = 1e9
#: Of temporaries, where the user does not say.
WORK_BYTES = 4 * GIGABYTE
#: Of what is free, for coefficients: models, temporaries and other jobs need some.
FREE_SHARE = 0.5


@dataclass(frozen=True)
class EngineContext:
    """How and where one run computes.

    Attributes
    ----------
    device : torch.device
    memory_bytes : float
        Coefficients are kept in memory up to this size.
    work_bytes : float
        Temporaries are kept to this size. Sums are rounded by it: never chosen by what happens to be free.
    seed : int
        Of everything random.
    checkpoint_dir : Path or None
        Where checkpoints are written, and continued from when one is there.
    checkpoint_seconds : float
        Longest time between checkpoints.
    monitor : Monitor
        Takes messages and answers whether the user wants to abort.
    """

    device: torch.device
    memory_bytes: float
    work_bytes: float
    seed: int
    checkpoint_dir: Path | None
    checkpoint_seconds: float
    monitor: Monitor

    @classmethod
    def of(cls, settings: ComputeSettings, checkpoint_dir: Path | None, monitor: Monitor) -> EngineContext:
        """Return the context that a user's settings describe.

        Raises
        ------
        InputError
            When a GPU is asked for and there is none.
        """
        device = choose_device(settings.device)
        return cls(
            device=device,
            memory_bytes=_kept_bytes(settings, device),
            work_bytes=work_bytes(settings),
            seed=settings.seed,
            checkpoint_dir=checkpoint_dir,
            checkpoint_seconds=60.0 * settings.checkpoint_minutes,
            monitor=monitor,
        )


def work_bytes(settings: ComputeSettings) -> float:
    """Bytes of temporaries that a user's settings allow."""
    return WORK_BYTES if settings.memory_GB is None else settings.memory_GB * GIGABYTE


def _kept_bytes(settings: ComputeSettings, device: torch.device) -> float:
    """Bytes of coefficients that are kept: as given, or this process's part of what is free."""
    if settings.memory_GB is not None:
        return settings.memory_GB * GIGABYTE
    free = free_memory(device)
    if math.isinf(free):
        return WORK_BYTES
    # Processes of one machine share its memory; each has a GPU of its own.
    sharing = processes_here() if device.type == "cpu" else 1
    return FREE_SHARE * free / sharing

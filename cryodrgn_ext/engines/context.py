"""Surroundings of a run of an engine, besides images and options: device, memory, seed, checkpoints and monitor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from cryodrgn_ext.engines.devices import choose_device
from cryodrgn_ext.engines.settings import ComputeSettings
from cryodrgn_ext.progress import Monitor

GIGABYTE = 1e9


@dataclass(frozen=True)
class EngineContext:
    """How and where one run computes.

    Attributes
    ----------
    device : torch.device
    memory_bytes : float
        Coefficients are kept in memory up to this size.
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
        return cls(
            device=choose_device(settings.device),
            memory_bytes=settings.memory_GB * GIGABYTE,
            seed=settings.seed,
            checkpoint_dir=checkpoint_dir,
            checkpoint_seconds=60.0 * settings.checkpoint_minutes,
            monitor=monitor,
        )

"""Where the runs of engines in tests compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cryodrgn_ext.engines.context import EngineContext
from cryodrgn_ext.engines.settings import ComputeSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor


def context(
    folder: Path | None = None,
    monitor: Monitor | None = None,
    seed: int = 0,
    device: str = "cpu",
    memory_bytes: float | None = None,
) -> EngineContext:
    """A run that writes a checkpoint at every opportunity into ``folder``, if there is one."""
    settings = ComputeSettings(device=device, seed=seed, checkpoint_minutes=0.0)
    made = EngineContext.of(settings, folder, SilentMonitor() if monitor is None else monitor)
    return made if memory_bytes is None else replace(made, memory_bytes=memory_bytes)

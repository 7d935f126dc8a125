"""What every engine can be told. No torch here: doors read it."""

from __future__ import annotations

from dataclasses import dataclass

from cryodrgn_ext.settings import Settings, setting


@dataclass(frozen=True)
class EngineSettings(Settings):
    """Options that all engines share."""

    zdim: int = setting(8, low=0, high=128, help="Dimensions of the latent space; 0 learns one structure only")
    checkpoint_minutes: float = setting(
        5.0, low=0.0, high=1440, unit="min", help="Longest time between checkpoints within a pass"
    )
    memory_GB: float = setting(
        4.0, low=0.1, high=4096, unit="GB", help="Coefficients are kept in memory up to this size, else on disk"
    )
    device: str = setting(
        "auto", choices=("auto", "cpu", "cuda"), help="Where to compute; auto takes a GPU if there is"
    )
    seed: int = setting(0, low=0, high=2**31 - 1, help="Seed of everything random")

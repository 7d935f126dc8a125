"""Settings of the explorer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.options import shared
from cryodrgn_ext.settings import Settings, setting


@dataclass(frozen=True)
class ExploreSettings(Settings):
    """Options of ``explore``."""

    in_results: tuple[Path, ...] = setting(
        help="Result directories of train, abinit (--zdim), import or landscape jobs; several are opened side by side"
    )
    project: Path | None = setting(**shared.PROJECT)
    masks: tuple[Path, ...] = setting(
        (), help="Masks in the frame of the maps: the density of each particle within them becomes a colour"
    )
    port: int = setting(0, low=0, high=65535, help="Port on this machine, on 127.0.0.1 only; 0 takes a free one")
    no_browser: bool = setting(False, help="Print the address only, and open no browser")
    device: str = setting(**shared.DEVICE)
    seed: int = setting(**shared.ANY_SEED)
    j: int = setting(0, low=0, high=1024, help="CPU threads; 0 leaves it to the libraries")

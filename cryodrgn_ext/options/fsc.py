"""Settings of the job that compares two maps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.options import shared
from cryodrgn_ext.settings import Settings, setting


@dataclass(frozen=True)
class FscSettings(Settings):
    """Settings of ``fsc``."""

    map1: Path = setting(help="First map (.mrc)")
    map2: Path = setting(help="Second map (.mrc)")
    mask: Path | None = setting(None, help="Mask that both maps are multiplied by")
    o: Path | None = setting(None, help="STAR file for the curve; printed only if not given")
    overwrite: bool = setting(**shared.OVERWRITE)

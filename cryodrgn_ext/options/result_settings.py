"""Settings that every job with a result directory has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.settings import Settings, setting


@dataclass(frozen=True)
class ResultSettings(Settings):
    """Base of the settings of a job that fills a directory; a subclass may declare either anew, with other words."""

    o: Path = setting(help="Result directory")
    j: int = setting(0, low=0, high=1024, help="CPU threads; 0 leaves it to the libraries")

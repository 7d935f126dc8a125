"""Settings of the job that writes a report again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.settings import Settings, setting


@dataclass(frozen=True)
class ReportSettings(Settings):
    """Options of ``report``."""

    in_result: Path = setting(help="Finished result directory, or any file in it")

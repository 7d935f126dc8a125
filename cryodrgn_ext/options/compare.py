"""Settings of the job that compares replicate runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.options.result_settings import ResultSettings
from cryodrgn_ext.settings import setting


@dataclass(frozen=True)
class CompareSettings(ResultSettings):
    """Options of ``compare``."""

    in_results: tuple[Path, ...] = setting(
        help="Result directories of two or more train, abinit (--zdim), import or landscape jobs on the same particles"
    )
    clusters: int | None = setting(
        None, low=2, high=1000, help="Cut the latents of each run into so many clusters; its states if not given"
    )
    star_columns: str = setting(
        "auto", choices=("auto", "yes", "no"),
        help="Put the state and the number of runs that agree on it into columns of returned STAR files",
    )  # fmt: skip
    particles_format: str = setting(
        "auto", choices=("auto", "star", "cs"), help="Format of returned particles; auto is that of the first run"
    )
    seed: int = setting(0, low=0, high=2**31 - 1, help="Seed of the clustering and of the sample that is compared")

"""Settings of the job that decodes volumes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.options.result_settings import ResultSettings
from cryodrgn_ext.settings import setting


@dataclass(frozen=True)
class VolumesSettings(ResultSettings):
    """Settings of ``volumes``."""

    in_result: Path = setting(help="Result directory of a train or abinit (--zdim) job")
    z: Path = setting(help="Latent positions, one row per volume: .npy, .npz or text")
    o: Path = setting(help="Directory that gets vol_000.mrc, vol_001.mrc, ...")

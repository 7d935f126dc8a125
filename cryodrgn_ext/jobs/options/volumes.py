"""Settings of the job that decodes volumes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.settings import Settings, setting


@dataclass(frozen=True)
class VolumesSettings(Settings):
    """What ``volumes`` can be told."""

    in_result: Path = setting(help="Result directory of a train or abinit (--zdim) job")
    z: Path = setting(help="Latent positions, one row per volume: .npy, .npz or text")
    o: Path = setting(help="Directory that gets vol_000.mrc, vol_001.mrc, ...")
    j: int = setting(0, low=0, high=1024, help="CPU threads; 0 leaves it to the libraries")

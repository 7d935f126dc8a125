"""Settings of the demonstration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.options import shared
from cryodrgn_ext.options.result_settings import ResultSettings
from cryodrgn_ext.settings import setting


@dataclass(frozen=True)
class DemoSettings(ResultSettings):
    """Settings of ``demo``."""

    o: Path = setting(Path("demo_project"), help="Project directory to make")
    particles: int = setting(5000, low=100, high=1_000_000, help="Number of particle images")
    box: int = setting(64, low=32, high=256, unit="px", help="Box size")
    snr: float = setting(0.1, low=1e-4, help="Variance of the signal over variance of the noise")
    zdim: int = setting(8, low=1, high=128, help="Dimensions of the latent space")
    epochs: int | None = setting(None, low=1, high=10_000, help="Passes over all particles; chosen if not given")
    states: int = setting(4, low=1, high=200, help="Number of states")
    seed: int = setting(**shared.ANY_SEED)

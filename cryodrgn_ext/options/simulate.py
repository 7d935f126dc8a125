"""Settings of the job that simulates a RELION project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.options import shared
from cryodrgn_ext.options.result_settings import ResultSettings
from cryodrgn_ext.settings import setting


@dataclass(frozen=True)
class SimulateSettings(ResultSettings):
    """Settings of ``simulate``."""

    o: Path = setting(help="Project directory to make")
    particles: int = setting(5000, low=1, high=10_000_000, help="Number of particle images")
    box: int = setting(64, low=16, high=512, unit="px", help="Box size")
    pixel_size_A: float = setting(4.0, low=0.1, high=50, unit="Å", help="Pixel size")
    snr: float = setting(0.1, low=1e-6, help="Variance of the signal over variance of the noise")
    motion: str = setting(
        "hinge",
        choices=(
            "hinge", "hinge-continuous", "rigid", "discrete", "compositional", "linear-2d", "circular", "uniform",
            "cooperative", "noncontiguous", "ribosome",
        ),
        help="What is heterogeneous: a domain on a hinge (in steps or continuous), nothing, ten places of a domain, "
        "three subunits that bind or not, two hinges, a full circle, three ways to populate a hinge, or subunits in "
        "proportions 10:15:25",
    )  # fmt: skip
    angle: float = setting(
        60.0, low=0, high=180, unit="degrees", help="How far the domain rotates; for the motion hinge only"
    )
    rare_fraction: float = setting(
        0.0, low=0, high=0.5, help="Fraction of the particles in a further, rare state: one more factor is bound"
    )
    seed: int = setting(**shared.ANY_SEED)

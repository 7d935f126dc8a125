"""Settings of the job that reconstructs all particles in two halves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.options import shared
from cryodrgn_ext.options.result_settings import ResultSettings
from cryodrgn_ext.settings import setting


@dataclass(frozen=True)
class ConsensusSettings(ResultSettings):
    """Options of ``consensus``."""

    in_parts: Path = setting(
        help="Particles with poses and CTF: a STAR file of RELION 3.0 to 5; a .cs, .csg or job directory of CryoSPARC",
        connects="aligned particles",
    )
    project: Path | None = setting(**shared.PROJECT)
    in_mask: Path | None = setting(None, help="Solvent mask; made from the map if not given")
    symmetry: str = setting("C1", help="Point group by RELION's name, as C1, C4, D2, T, O, I or I3")
    box: int | None = setting(
        None, low=16, high=1024, unit="px", help="Box of the maps; that of the images, at most 256, if not given"
    )
    mask_diameter_A: float | None = setting(**shared.MASK_DIAMETER_A)
    b_factor: float | None = setting(
        None, low=-1000, high=5000, unit="Å²",
        help="B-factor that the sharpened map is freed of, positive to sharpen (the other sign than RELION's and "
        "CryoSPARC's); that of the Guinier plot if not given",
    )  # fmt: skip
    contrast: str = setting(**shared.CONTRAST)
    keep_images: bool = setting(
        False, help="Keep the preprocessed images in checkpoint/, for another run in the same directory"
    )
    device: str = setting(**shared.DEVICE)
    seed: int = setting(0, low=0, high=2**31 - 1, help="Seed of the randomised phases")

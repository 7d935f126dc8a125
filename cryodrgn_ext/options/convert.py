"""Settings of the job that converts particles between the suites."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.options import shared
from cryodrgn_ext.settings import Settings, setting


@dataclass(frozen=True)
class ConvertSettings(Settings):
    """Settings of ``convert``."""

    in_parts: Path = setting(help="Particles: a .star, .cs or .csg file, or the directory of a CryoSPARC job")
    o: Path = setting(help="Output: .star, .cs or .csg; the last two write the .csg beside the .cs")
    reference: Path | None = setting(
        None, help="Original file in the format of the output: all of its columns are restored by uid or image"
    )
    passthrough: tuple[str, ...] = setting((), help="Passthrough .cs files of the input, joined by uid")
    project: Path | None = setting(**shared.PROJECT)
    carry: bool = setting(
        True, help="Take fields that RELION has no column for along in columns cdxCs..., for the way back to a .cs"
    )
    contrast: str = setting(
        "white", choices=("white", "black"), help="Contrast of the particles in a STAR file that becomes a .cs"
    )
    flip_y: bool = setting(
        True, help="Count y on micrographs from the other edge, as CryoSPARC and RELION do; no where a program in "
        "between has turned the micrographs already"
    )  # fmt: skip
    overwrite: bool = setting(**shared.OVERWRITE)

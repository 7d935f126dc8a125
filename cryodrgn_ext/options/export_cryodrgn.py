"""Settings of the job that writes the files of the public cryodrgn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.options import shared
from cryodrgn_ext.options.result_settings import ResultSettings
from cryodrgn_ext.settings import setting


@dataclass(frozen=True)
class ExportCryodrgnSettings(ResultSettings):
    """Options of ``export-cryodrgn``."""

    in_parts: Path = setting(
        help="Result directory of a train, abinit, import or landscape job, the particles of one of its states, or any "
        "particles with poses: .star, .cs, .csg"
    )
    o: Path = setting(help="Directory for poses.pkl, ctf.pkl, z.pkl, particles.star, and ind.pkl of a subset")
    project: Path | None = setting(**shared.PROJECT)
    indices: Path | None = setting(
        None, help="Take these particles only: rows from 0 as .txt, .npy or .pkl, or a .star or .cs of some of them"
    )

"""Settings of the job that learns heterogeneity from a finished refinement."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.engines.neural.settings import NeuralSettings
from cryodrgn_ext.engines.settings import ComputeSettings
from cryodrgn_ext.engines.subspace.settings import SubspaceSettings
from cryodrgn_ext.options import shared
from cryodrgn_ext.options.result_settings import ResultSettings
from cryodrgn_ext.settings import setting


@dataclass(frozen=True)
class TrainSettings(ResultSettings, NeuralSettings, SubspaceSettings, ComputeSettings):
    """Settings of ``train``: inputs, states and outputs, and the options of the engine."""

    in_parts: Path = setting(
        connects="aligned particles",
        help="Particles with poses and CTF: a STAR file of RELION 3.0 to 5; a .cs, .csg or job directory of CryoSPARC",
    )
    o: Path = setting(help="Result directory")
    project: Path | None = setting(**shared.PROJECT)
    in_mask: Path | None = setting(None, help="Solvent mask of the particle; made from the consensus if not given")
    focus_mask: Path | None = setting(
        None,
        help="Mask of the region whose heterogeneity is looked for; the rest stays as in the consensus (subspace)",
    )
    in_3dref: Path | None = setting(**shared.REFINEMENT_MAP)
    engine: str = setting(
        "auto",
        choices=("auto", "subspace", "neural"),
        help="What learns the heterogeneity: subspace (seconds to minutes), neural (a network), or auto",
    )
    symmetry: str = setting(**shared.STATE_SYMMETRY)
    states: int = setting(4, low=1, high=200, help="Number of states to cut the particles into (k-means)")
    box: int | None = setting(
        None, low=16, high=1024, unit="px", help="Box that images are Fourier-cropped to; at most 128 if not given"
    )
    mask_diameter_A: float | None = setting(**shared.MASK_DIAMETER_A)
    star_columns: str = setting(**shared.STATE_COLUMNS)
    particles_format: str = setting(**shared.PARTICLES_FORMAT)
    volumes: int = setting(10, low=0, high=1000, help="Number of volumes to decode, at centres of the latent cloud")
    check_weak: bool = setting(
        True,
        help="Where states are claimed by so little that noise, which a model learns too, could make them, repeat the "
        "training on images of one structure, and claim only what exceeds that; takes as long as the training",
    )
    contrast: str = setting(**shared.CONTRAST)
    processes: int = setting(
        1, low=1, high=64, help="Processes on this machine that share the training, each with its part of the images"
    )

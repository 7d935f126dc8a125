"""Settings of the job that learns heterogeneity from a finished refinement."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.engines.neural.settings import NeuralSettings
from cryodrgn_ext.engines.settings import ComputeSettings
from cryodrgn_ext.engines.subspace.settings import SubspaceSettings
from cryodrgn_ext.jobs.options.project import PROJECT_HELP
from cryodrgn_ext.settings import setting
from cryodrgn_ext.workflow.result_settings import ResultSettings


@dataclass(frozen=True)
class TrainSettings(ResultSettings, NeuralSettings, SubspaceSettings, ComputeSettings):
    """Settings of ``train``: inputs, states and outputs, and the options of the engine."""

    in_parts: Path = setting(
        connects="aligned particles",
        help="Particles with poses and CTF: a STAR file of RELION 3.0 to 5; a .cs, .csg or job directory of CryoSPARC",
    )
    o: Path = setting(help="Result directory")
    project: Path | None = setting(None, help=PROJECT_HELP)
    in_mask: Path | None = setting(None, help="Solvent mask of the particle; made from the consensus if not given")
    focus_mask: Path | None = setting(
        None,
        help="Mask of the region whose heterogeneity is looked for; the rest stays as in the consensus (subspace)",
    )
    in_3dref: Path | None = setting(
        None, help="Map of the refinement; compared with our consensus, to find wrong poses or a wrong pixel size"
    )
    engine: str = setting(
        "auto",
        choices=("auto", "subspace", "neural"),
        help="What learns the heterogeneity: subspace (seconds to minutes), neural (a network), or auto",
    )
    symmetry: str = setting(
        "C1",
        help="Point group that is imposed on consensus and states, by RELION's name, as C1, C4, D2, T, O, I or I3",
    )
    states: int = setting(4, low=1, high=200, help="Number of states to cut the particles into (k-means)")
    box: int | None = setting(
        None, low=16, high=1024, unit="px", help="Box that images are Fourier-cropped to; at most 128 if not given"
    )
    mask_diameter_A: float | None = setting(
        None, low=10, unit="Å", help="Diameter of the soft disc that is kept of each image; the whole box if not given"
    )
    star_columns: str = setting(
        "auto",
        choices=("auto", "yes", "no"),
        help="Put latents and states into columns of returned STAR files; auto leaves RELION 3.0 files as they are",
    )
    particles_format: str = setting(
        "auto", choices=("auto", "star", "cs"), help="Format of returned particles; auto is that of the input"
    )
    volumes: int = setting(10, low=0, high=1000, help="Number of volumes to decode, at centres of the latent cloud")
    contrast: str = setting(
        "auto", choices=("auto", "white", "black"), help="Whether particles are bright or dark; auto looks at the data"
    )
    processes: int = setting(
        1, low=1, high=64, help="Processes on this machine that share the training, each with its part of the images"
    )

"""Settings of the job that moves a structure's atoms with the latents of a finished training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.engines.atomic.atomvae_settings import AtomVaeSettings
from cryodrgn_ext.engines.atomic.cryofold_settings import CryofoldSettings
from cryodrgn_ext.options import shared
from cryodrgn_ext.options.result_settings import ResultSettings
from cryodrgn_ext.settings import setting


@dataclass(frozen=True)
class AtomicSettings(CryofoldSettings, AtomVaeSettings, ResultSettings):
    """Settings of ``atomic``."""

    in_parts: Path = setting(
        connects="result",
        help="Result directory of a train or abinit (--zdim) job, or particles.star of it",
    )
    structure: Path = setting(
        help="Structure of what the images show, in one of its states, wherever it lies: PDB or mmCIF"
    )
    o: Path = setting(help="Result directory")
    project: Path | None = setting(**shared.PROJECT)
    method: str = setting(
        "fast",
        choices=("fast", "cryofold", "atomvae"),
        help="fast: atoms move smoothly along the latents of the training, minutes for any number of images; as "
        "published, learned image by image: cryofold, two Gaussians for each residue and an image encoder; atomvae, "
        "all atoms as rigid residues, with poses given or from the images",
    )
    models: int = setting(10, low=2, high=999, help="Number of models along the largest motion in ensemble.cif")
    resolution_A: float = setting(
        6.0, low=4.0, high=30.0, unit="Å",
        help="Finest detail that is fitted; two Gaussians for each residue say nothing about finer ones",
    )  # fmt: skip
    nodes: int = setting(24, low=2, high=400, help="Places in latent space at which images are summed, at most")
    features: int = setting(6, low=1, high=30, help="Smooth functions of the latents that a motion is made of")
    rounds: int = setting(
        1, low=0, high=20, help="How many times the images are placed in latent space by the atoms that were found"
    )
    particles_format: str = setting(**shared.PARTICLES_FORMAT)
    seed: int = setting(**shared.ANY_SEED)

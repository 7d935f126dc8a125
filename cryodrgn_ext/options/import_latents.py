"""Settings of the jobs that take over latents of other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.options import shared
from cryodrgn_ext.options.result_settings import ResultSettings
from cryodrgn_ext.settings import setting


@dataclass(frozen=True)
class _FurtherSettings(ResultSettings):
    """Options that both jobs share."""

    project: Path | None = setting(**shared.PROJECT)
    states: int = setting(4, low=1, high=200, help="Number of states to cut the particles into (k-means)")
    knots: int = setting(
        64, low=1, high=1000,
        help="Places in latent space at which volumes are reconstructed; between them volumes are interpolated",
    )  # fmt: skip
    neighbors: int | None = setting(
        None, low=20, high=10_000_000,
        help="Particles near a place that its volume is made of; chosen by cross-validation of half-sets if not given",
    )  # fmt: skip
    symmetry: str = setting(**shared.STATE_SYMMETRY)
    volumes: int = setting(10, low=0, high=1000, help="Number of volumes to show, at centres of the latent cloud")
    in_mask: Path | None = setting(None, help="Solvent mask of the particle; made from the consensus if not given")
    in_3dref: Path | None = setting(**shared.REFINEMENT_MAP)
    box: int | None = setting(
        None, low=16, high=1024, unit="px", help="Box that images are Fourier-cropped to; at most 128 if not given"
    )
    mask_diameter_A: float | None = setting(**shared.MASK_DIAMETER_A)
    contrast: str = setting(**shared.CONTRAST)
    star_columns: str = setting(**shared.STATE_COLUMNS)
    particles_format: str = setting(**shared.PARTICLES_FORMAT)
    device: str = setting(**shared.DEVICE)
    seed: int = setting(**shared.ANY_SEED)


@dataclass(frozen=True)
class ImportSettings(_FurtherSettings):
    """Options of ``import``."""

    in_parts: Path = setting(
        help="Particles that the latents belong to: .star, .cs, .csg or job directory; or a stack .mrcs, or a list of "
        "stacks .txt, with --poses and --ctf",
        connects="aligned particles with latents",
    )
    latents: Path | None = setting(
        None,
        help="Latents: .npz (z, and uid or image_name to match particles by), .npy or text in the order of the "
        "particles, z.N.pkl of cryodrgn, or a .cs with components_mode_*/value; those that "
        "in_parts carries (components_mode_*/value, or cdxLatent1, ...) if not given",
    )
    poses: Path | None = setting(None, help="Pickle of cryodrgn with poses, which replace those of the particles")
    ctf: Path | None = setting(None, help="Pickle of cryodrgn with CTF parameters, for a stack of images")
    ind: Path | None = setting(
        None, help="Which particles the latents are of: rows from 0 as .pkl of cryodrgn, .txt or .npy; all if not given"
    )
    datadir: Path | None = setting(None, help="What the stacks in a .txt list are relative to; the list if not given")


@dataclass(frozen=True)
class ImportCryodrgnSettings(_FurtherSettings):
    """Options of ``import-cryodrgn``."""

    in_run: Path = setting(help="Output directory of a cryodrgn run (train_vae, abinit_het, ...)")
    epoch: int | None = setting(None, low=0, high=100_000, help="Epoch whose z.N.pkl is taken; the last if not given")
    in_parts: Path | None = setting(
        None, help="The particles of the run in full size: .star or .cs in the same order; those of its config.yaml if "
        "not given"
    )  # fmt: skip
    poses: Path | None = setting(None, help="Pickle of poses; that of the run if not given")
    ctf: Path | None = setting(None, help="Pickle of CTF parameters; that of the run if not given")
    ind: Path | None = setting(None, help="Pickle of the rows that were trained on; that of the run if not given")

"""Settings of the job that learns heterogeneity from a finished refinement."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.settings import Settings, setting


@dataclass(frozen=True)
class TrainSettings(Settings):
    """What ``train`` can be told. The first ten after the inputs fill RELION's ten parameter fields."""

    in_parts: Path = setting(help="Particles with poses and CTF: a STAR file of RELION 3.0 to 5")
    o: Path = setting(help="Result directory")
    in_mask: Path | None = setting(None, help="Solvent mask of the particle; made from the consensus if not given")
    in_3dref: Path | None = setting(
        None, help="Map of the refinement; only compared with our consensus, whose hand and grey scale decide"
    )
    engine: str = setting(
        "auto", choices=("auto", "neural"), help="What learns the heterogeneity; auto takes the best for the data"
    )
    zdim: int = setting(8, low=0, high=128, help="Dimensions of the latent space; 0 learns one structure only")
    epochs: int = setting(20, low=1, high=10_000, help="Passes over all particles")
    states: int = setting(4, low=1, high=200, help="Number of states to cut the particles into (k-means)")
    box: int | None = setting(
        None, low=16, high=1024, unit="px", help="Box that images are Fourier-cropped to; at most 128 if not given"
    )
    mask_diameter_A: float | None = setting(
        None, low=10, unit="Å", help="Diameter of the circle around the particle; nine tenths of the box if not given"
    )
    preset: str = setting("fast", choices=("fast", "cryodrgn"), help="Recipe of the engine; cryodrgn as published")
    seed: int = setting(0, low=0, high=2**31 - 1, help="Seed of everything random")
    star_columns: str = setting(
        "auto",
        choices=("auto", "yes", "no"),
        help="Put latents and states into columns of returned STAR files; auto leaves RELION 3.0 files as they are",
    )
    volumes: int = setting(10, low=0, high=1000, help="Number of volumes to decode, at centres of the latent cloud")
    batch: int | None = setting(None, low=1, high=65_536, help="Images per step; chosen by the engine if not given")
    learning_rate: float | None = setting(None, low=1e-8, high=1, help="Step size; chosen by the engine if not given")
    beta: float | None = setting(None, low=0, high=1000, help="Weight of the prior; chosen by the engine if not given")
    contrast: str = setting(
        "auto", choices=("auto", "white", "black"), help="Whether particles are bright or dark; auto looks at the data"
    )
    device: str = setting(
        "auto", choices=("auto", "cpu", "cuda"), help="Where to compute; auto takes a GPU if there is"
    )
    j: int = setting(0, low=0, high=1024, help="CPU threads; 0 leaves it to the libraries")

"""Settings of the job that returns a subset of the user's particles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.options import shared
from cryodrgn_ext.settings import Settings, setting


@dataclass(frozen=True)
class SelectSettings(Settings):
    """Options of ``select``; several conditions are all to be met."""

    in_parts: Path = setting(
        connects="result",
        help="particles.star of a train, abinit (--zdim) or landscape job or of one of its states, or the result "
        "directory",
    )
    o: Path = setting(
        help="Output: a .star, .cs or .csg file, or a directory that gets particles.star or .cs, as the input has them"
    )
    project: Path | None = setting(**shared.PROJECT)
    state: tuple[int, ...] = setting((), low=0, help="States to keep, by number (from 0)")
    cluster: tuple[int, ...] = setting(
        (), low=0, help="Clusters to keep, by number (from 0), when --clusters or --mixture is given"
    )
    clusters: int | None = setting(None, low=1, high=10_000, help="Cut the latents into so many clusters (k-means)")
    mixture: int | None = setting(
        None, low=1, high=1000, help="Describe the latents by so many Gaussians, which are the clusters to choose among"
    )
    probability: float | None = setting(
        None, low=0, high=1, help="With --mixture: keep particles that belong to their Gaussian with this probability"
    )
    outliers: str = setting(
        "keep",
        choices=("keep", "drop", "only"),
        help="What to do with particles whose latents are far longer than usual; with --mixture, with those that no "
        "Gaussian explains (one in 10,000 of a Gaussian is as far out) and with Gaussians far from all others",
    )
    junk: bool = setting(
        True, help="Keep images that show no particle, which the job lists in empty_images.star; no takes them out"
    )
    z_range: tuple[str, ...] = setting(
        (), help="Latent intervals to keep, as column:low:high (z1:-0.5:2, pc1::0); either end may be left out"
    )
    indices: Path | None = setting(
        None,
        help="File with what to keep: rows from 0 as .txt, .npy, or a pickle of indices as cryoDRGN writes, or a .star "
        "or .cs of some of the particles",
    )
    selection: tuple[str, ...] = setting(
        (), help="Selections to keep that explore saved in the result directory, by name; of several, what any has"
    )
    intersection: tuple[Path, ...] = setting(
        (),
        help="Keep only particles that are in all of these selections: .star, .cs, a folder of a state, or what "
        "explore saved (.npz), of this or of replicate runs (matched by uid); or rows of this one as .txt, .npy, .pkl",
    )
    union: tuple[Path, ...] = setting((), help="Add the particles of these selections to those of the conditions")
    difference: tuple[Path, ...] = setting((), help="Take the particles of these selections away, at last")
    z_norm_max: float | None = setting(None, low=0, help="Drop particles whose latent is longer than this (outliers)")
    invert: bool = setting(False, help="Keep what the conditions leave out")
    star_columns: str = setting(
        "auto", choices=("auto", "yes", "no"), help="Put latents and states into extra columns of the STAR file"
    )
    particles_format: str = setting(
        "auto", choices=("auto", "star", "cs"), help="Format of the particles in a directory; auto is that of the input"
    )
    seed: int = setting(0, low=0, high=2**31 - 1, help="Seed of the clustering")
    j: int = setting(0, low=0, high=1024, help="CPU threads; 0 leaves it to the libraries")
    overwrite: bool = setting(**shared.OVERWRITE)

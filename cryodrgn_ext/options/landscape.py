"""Settings of the job that makes named states and a landscape of a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.options import shared
from cryodrgn_ext.options.result_settings import ResultSettings
from cryodrgn_ext.settings import setting


@dataclass(frozen=True)
class LandscapeSettings(ResultSettings):
    """Settings of ``landscape``."""

    in_parts: Path = setting(
        connects="result",
        help="Result directory of a train, abinit (--zdim) or landscape job, or particles.star of it or of one of its "
        "states",
    )
    o: Path = setting(help="Result directory")
    project: Path | None = setting(**shared.PROJECT)
    sketch: int = setting(500, low=4, high=20_000, help="Number of particles whose volumes stand for all")
    clusters: int = setting(10, low=1, high=1000, help="Number of clusters (states) to cut the volumes into")
    linkage: str = setting("average", choices=("average", "ward", "complete"), help="How clusters are merged")
    metric: str = setting("euclidean", choices=("euclidean", "correlation"), help="Distance between volumes")
    min_particles: int | None = setting(
        None, low=0, help="Fewest particles of a cluster, fewer join the nearest; one in 1,000, and 10, if not given"
    )
    set_apart: bool = setting(
        True, help="Make small groups that are set apart from all others clusters of their own, beyond --clusters"
    )
    in_mask: Path | None = setting(
        None,
        help="Region to compare volumes in; the union of the voxels above half of each volume's maximum if not given",
    )
    mask_level: float = setting(
        0.5, low=0.01, high=0.99, help="Share of each volume's maximum above which voxels are in the mask"
    )
    components: int = setting(10, low=1, high=100, help="Principal components of the volumes to keep")
    traversals: int = setting(
        2, low=0, high=20, help="Components along which five maps are written, from the 5th to the 95th percentile"
    )
    mapping: str = setting(
        "auto",
        choices=("auto", "direct", "learned"),
        help="How all particles get their volume components: direct is exact for a linear engine, else computes the "
        "Fourier coefficients of each volume that matter (error below 1 %); learned is a perceptron on some volumes; "
        "auto is direct for a linear engine",
    )
    mapping_volumes: int = setting(2000, low=16, high=1_000_000, help="Volumes that a learned mapping is trained on")
    bootstrap: int = setting(60, low=2, high=10_000, help="Bootstrap replicates of densities and free energies")
    indices: Path | None = setting(**shared.USED_PARTICLES)
    star_columns: str = setting(
        "auto",
        choices=("auto", "yes", "no"),
        help="Put clusters and volume components into columns of returned STAR files; auto leaves RELION 3.0 files as "
        "they are",
    )
    particles_format: str = setting(**shared.PARTICLES_FORMAT)
    seed: int = setting(0, low=0, high=2**31 - 1, help="Seed of the sketch, the learned mapping and the bootstrap")

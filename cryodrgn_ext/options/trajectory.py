"""Settings of the job that decodes volumes along a path through latent space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.options import shared
from cryodrgn_ext.options.result_settings import ResultSettings
from cryodrgn_ext.settings import setting


@dataclass(frozen=True)
class TrajectorySettings(ResultSettings):
    """Settings of ``trajectory``."""

    ALTERNATIVES = (("anchors", "anchor_particles"),)

    in_parts: Path = setting(
        help="Result directory of a train, abinit (--zdim) or landscape job, or particles.star of it or of one of its "
        "states"
    )
    o: Path = setting(
        help="Directory that gets vol_000.mrc, vol_001.mrc, ... (reconstructed_000.mrc, ... with reconstruct_from), "
        "movie.gif, movie.mp4, and a script for ChimeraX"
    )
    project: Path | None = setting(**shared.PROJECT)
    method: str = setting(
        "pc",
        choices=("pc", "graph", "density", "line"),
        help="Along a principal component; the shortest path through nearest neighbours; a path that keeps to where "
        "particles are dense; or straight lines",
    )
    pc: int = setting(1, low=1, high=1000, help="Principal component to follow, from 1 (method pc)")
    percentile_low: float = setting(5.0, low=0, high=100, help="Where on the component to begin (method pc)")
    percentile_high: float = setting(95.0, low=0, high=100, help="Where on the component to end (method pc)")
    frames: int | None = setting(
        None, low=2, high=999, help="Number of volumes; 10 if not given, or with graph every particle on the path"
    )
    anchors: Path | None = setting(
        None, help="Latents that the path leads through, in order, one row each: .npy, .npz or text"
    )
    anchor_particles: tuple[int, ...] = setting(
        (), low=0, help="Particles that the path leads through, in order, as rows of the input from 0"
    )
    anchor_clusters: int = setting(
        5, low=2, high=1000, help="Without anchors: lead the path through the centres of so many k-means clusters"
    )
    mean_neighbors: float = setting(5.0, low=1, high=1000, help="Mean number of neighbours in the graph (method graph)")
    max_neighbors: int = setting(10, low=1, high=1000, help="Largest number of neighbours (methods graph and density)")
    nearest: int = setting(20, low=1, high=10_000, help="Number of particles to list for each volume")
    reconstruct_from: int | None = setting(
        None, low=2, high=10_000_000,
        help="Reconstruct each map from so many original particles nearest to it, half of them from each half-set, "
        "instead of asking the model for it; needs the images, and no model",
    )  # fmt: skip
    indices: Path | None = setting(**shared.USED_PARTICLES)
    device: str = setting(**{**shared.DEVICE, "help": "Where to reconstruct; auto takes a GPU if there is"})
    seed: int = setting(0, low=0, high=2**31 - 1, help="Seed of clusters and samples")

"""The path through latents that the settings of ``trajectory`` describe."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latents import cluster_latents
from cryodrgn_ext.analysis.trajectories import (
    Trajectory,
    along_component,
    anchor_particles,
    straight,
    through_density,
    through_graph,
)
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.latent_files import read_positions
from cryodrgn_ext.options.trajectory import TrajectorySettings

IndexArray = NDArray[np.int64]
DEFAULT_FRAMES = 10
MOST_FRAMES = 999  # ChimeraX opens the files in the order of their names


def find_path(settings: TrajectorySettings, z: NDArray[np.float32], rows: IndexArray) -> Trajectory:
    """Lead the path that the settings describe through latents (n, q) of the particles in ``rows`` (n,).

    Raises
    ------
    InputError
        When anchors do not exist or do not suit the method, or the path is too long to be opened as a series.
    """
    frames = DEFAULT_FRAMES if settings.frames is None else settings.frames
    if settings.method == "pc":
        if settings.anchors is not None or settings.anchor_particles:
            raise InputError("--method pc has no anchors: leave them out, or choose graph, density or line.")
        return along_component(z, settings.pc, frames, (settings.percentile_low, settings.percentile_high))
    if settings.anchors is not None and settings.anchor_particles:
        raise InputError("give --anchors or --anchor_particles, not both.")
    if settings.method == "line" and settings.anchors is not None:
        return straight(read_positions(settings.anchors, z.shape[1]), frames)
    anchors = _anchors(settings, z, rows).tolist()
    if settings.method == "line":
        return straight(z[anchors], frames)
    workers = settings.j or 1
    if settings.method == "density":
        return through_density(
            z, anchors, n_frames=frames, n_neighbors=settings.max_neighbors, seed=settings.seed, workers=workers
        )
    path = through_graph(
        z, anchors, mean_neighbors=settings.mean_neighbors, max_neighbors=settings.max_neighbors,
        n_frames=settings.frames, seed=settings.seed, workers=workers,
    )  # fmt: skip
    if path.n_frames > MOST_FRAMES:
        raise InputError(f"the path visits {path.n_frames} particles: give --frames to take some of them, evenly.")
    return path


def _anchors(settings: TrajectorySettings, z: NDArray[np.float32], rows: IndexArray) -> IndexArray:
    """Anchors as positions in ``rows``."""
    if settings.anchors is not None:
        return anchor_particles(z, read_positions(settings.anchors, z.shape[1]))
    if settings.anchor_particles:
        wanted = np.array(settings.anchor_particles, np.int64)
        place = np.minimum(np.searchsorted(rows, wanted), len(rows) - 1)
        absent = np.flatnonzero(rows[place] != wanted)
        if len(absent):
            raise InputError(
                f"--anchor_particles names particle {wanted[absent[0]]}, which is not among the {len(rows)} particles "
                "that are looked at (rows count from 0)."
            )
        return place.astype(np.int64)
    return cluster_latents(z, settings.anchor_clusters, seed=settings.seed).center_index

"""Maps of all particles, moved to the latent of each set: made, written and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latents import spread_places
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.plain_files import load_json, write_json
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.consensus import Consensus, write_consensus
from cryodrgn_ext.results.latent_tables import LatentTable
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.validated_sets import ValidatedSets
from cryodrgn_ext.validation.motion_corrected import MotionCorrection

FOLDER = "all_particles"
#: Places over which particles are spread; what differs within the particles of one of them is left out.
PLACES = 64


def make_corrected_maps(
    layout: Layout, images: ParticleImages, latents: LatentTable, sets: ValidatedSets, consensus: Consensus,
    seed: int, monitor: Monitor,
) -> None:  # fmt: skip
    """Write ``all_particles/`` into the folder of each set, and what was found into the checkpoint.

    Parameters
    ----------
    layout : Layout
    images : ParticleImages
    latents : LatentTable
        Of the images.
    sets : ValidatedSets
        All particles are moved to the one nearest to the mean of each set.
    consensus : Consensus
        In whose mask the FSC is computed.
    seed : int
        Of the places.
    monitor : Monitor
    """
    z = in_units_of_errors(latents.z, latents.z_cov)
    rows = [np.flatnonzero(sets.label == number) for number in sets.names]
    targets = np.stack([_centre(z[some]) for some in rows])
    places = spread_places(z[~images.unusable], min(PLACES, max(1, images.n // 2)), seed)
    work = MotionCorrection(images, z, places, targets, consensus.symmetry, monitor=monitor)
    found = []
    for number, one in zip(sets.names, work.maps(torch.from_numpy(consensus.mask)), strict=True):
        write_consensus(layout.state(number) / FOLDER, one.maps, consensus.mask, images.n_usable, consensus.data_sign,
                        f"all moved to state {number:02d}")  # fmt: skip
        found.append({
            "state": number, "resolution_A": round(one.maps.resolution_A, 3),
            "moving_resolution_A": round(one.moving_resolution_A, 3),
        })  # fmt: skip
    write_json(found_path(layout), {"states": found})


def in_units_of_errors(z: NDArray[np.float32], z_cov: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """(N, q) latents in which one is the typical error of a particle along each axis.

    So particles are near to each other along what images tell, whatever else the latents hold.

    Parameters
    ----------
    z : ndarray
        (N, q).
    z_cov : ndarray or None
        (N, q, q); latents stay as they are without it.
    """
    if z_cov is None:
        return z
    size, axes = np.linalg.eigh(z_cov.mean(axis=0, dtype=np.float64))
    return np.asarray(z @ (axes / np.sqrt(np.maximum(size, 1e-12 * max(size.max(), 1e-300)))), np.float32)


def found_path(layout: Layout) -> Path:
    """Where :func:`make_corrected_maps` leaves what it found."""
    return layout.checkpoint / "all_particles.json"


def read_corrected(layout: Layout) -> list[dict[str, Any]]:
    """Read what :func:`make_corrected_maps` found."""
    return list(load_json(found_path(layout))["states"])


def _centre(z: NDArray[np.float32]) -> NDArray[np.float32]:
    """(q,) the latent nearest to the mean of some (n, q): where there are particles."""
    centre: NDArray[np.float32] = z[np.square(z - z.mean(axis=0)).sum(axis=1).argmin()]
    return centre

"""Volumes decoded at given latents: vol_000.mrc, vol_001.mrc, ... with z_values.txt beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latents import cluster_latents, distinct_latents
from cryodrgn_ext.durable_files import atomic_directory, atomic_path
from cryodrgn_ext.engines.base import Heterogeneity, load_heterogeneity
from cryodrgn_ext.images.map_origin import generated
from cryodrgn_ext.images.maps import write_map
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.layout import Layout

VALUES_NAME = "z_values.txt"
#: Particles that a decoded volume stands for, at least: outliers of the latents are not worth one.
FEWEST_AT_A_VOLUME = 10


def volume_name(number: int) -> str:
    """File name of volume ``number``, vol_000.mrc."""
    return f"vol_{number:03d}.mrc"


def decode_volumes(
    model: Heterogeneity, z: NDArray[np.float32], directory: Path, monitor: Monitor
) -> Iterator[NDArray[np.float32]]:
    """Decode volumes at latents (P, q) into an existing directory; yields each (D, D, D) after it is written."""
    for number, volume in enumerate(monitor.track(model.volumes(z), "Decoding volumes", len(z))):
        point = " ".join(f"{value:.3g}" for value in z[number])
        write_map(directory / volume_name(number), volume, model.pixel_size_A, generated(f"at z = {point}"))
        yield volume
    with atomic_path(directory / VALUES_NAME) as temporary:
        np.savetxt(temporary, z, fmt="%.8g")


def write_volumes(model: Heterogeneity, z: NDArray[np.float32], directory: Path, monitor: Monitor) -> list[Path]:
    """Decode volumes at latents (P, q) into an existing directory, see :func:`decode_volumes`; return the maps."""
    return [directory / volume_name(number) for number, _ in enumerate(decode_volumes(model, z, directory, monitor))]


def decode_at_centers(layout: Layout, count: int, seed: int, monitor: Monitor) -> None:
    """Write volumes/ of a result directory: its model at ``count`` centres of the latent cloud, or its only volume."""
    model = load_heterogeneity(layout.model)
    if model.z.shape[1] == 0:
        z = np.zeros((1, 0), np.float32)
    else:
        count = distinct_latents(model.z, min(count, len(model.z)))
        fewest = max(1, min(FEWEST_AT_A_VOLUME, len(model.z) // (10 * max(count, 1))))
        z = model.z[:0]
        if count:
            z = cluster_latents(model.z, count, seed=seed, fewest=fewest).center.astype(np.float32)
    with atomic_directory(layout.volumes) as temporary:
        write_volumes(model, z, temporary, monitor)

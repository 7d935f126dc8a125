"""The job that decodes volumes at given latent positions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latents import cluster_latents
from cryodrgn_ext.durable_files import atomic_directory, atomic_path
from cryodrgn_ext.engines.base import Heterogeneity, load_heterogeneity
from cryodrgn_ext.images.maps import write_map
from cryodrgn_ext.jobs.job_outputs import shown_maps
from cryodrgn_ext.jobs.options.volumes import VolumesSettings
from cryodrgn_ext.metadata.latent_files import read_positions
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.layout import Layout, find_result_directory
from cryodrgn_ext.results.learned_result import LEARNING_JOBS
from cryodrgn_ext.results.record import fingerprint_file, refuse_other_results, require_record, write_record
from cryodrgn_ext.workflow.job_result import JobResult
from cryodrgn_ext.workflow.threads import use_threads


def volumes(settings: VolumesSettings, monitor: Monitor) -> JobResult:
    """Decode one volume per row of a file of latents.

    Parameters
    ----------
    settings : VolumesSettings
    monitor : Monitor

    Returns
    -------
    JobResult
        vol_000.mrc, vol_001.mrc, ... in ``settings.o``.

    Raises
    ------
    InputError
        When the directory holds no model, or the latents do not fit it.
    """
    use_threads(settings.j)
    directory = find_result_directory(settings.in_result)
    require_record(directory, *LEARNING_JOBS)
    model = load_heterogeneity(Layout(directory).model)
    z = read_positions(settings.z, model.z.shape[1])
    refuse_other_results(settings.o, "volumes")
    settings.o.mkdir(parents=True, exist_ok=True)
    paths = write_volumes(model, z, settings.o, monitor)
    inputs = {"z": fingerprint_file(settings.z), "in_result": str(directory)}
    write_record(settings.o, "volumes", "finished", settings, inputs, {"volumes": len(paths)})
    monitor.message(f"{len(paths)} volumes in {settings.o}")
    return JobResult(settings.o, tuple(shown_maps(paths)))


def decode_at_centers(layout: Layout, count: int, seed: int, monitor: Monitor) -> None:
    """Write volumes/ of a result directory: its model at ``count`` centres of the latent cloud, or its only volume."""
    model = load_heterogeneity(layout.model)
    if model.z.shape[1] == 0:
        z = np.zeros((1, 0), np.float32)
    else:
        count = min(count, len(model.z))
        z = cluster_latents(model.z, count, seed=seed).center.astype(np.float32) if count else model.z[:0]
    with atomic_directory(layout.volumes) as temporary:
        write_volumes(model, z, temporary, monitor)


def volume_name(number: int) -> str:
    """File name of volume ``number``, vol_000.mrc."""
    return f"vol_{number:03d}.mrc"


def write_volumes(model: Heterogeneity, z: NDArray[np.float32], directory: Path, monitor: Monitor) -> list[Path]:
    """Decode volumes at latents (P, q) into an existing directory, with z_values.txt beside them."""
    paths = []
    for number, volume in enumerate(monitor.track(model.volumes(z), "Decoding volumes", len(z))):
        paths.append(directory / volume_name(number))
        write_map(paths[-1], volume, model.pixel_size_A)
    with atomic_path(directory / "z_values.txt") as temporary:
        np.savetxt(temporary, z, fmt="%.8g")
    return paths

"""The job that writes particles, poses, CTF and latents in the formats of the public cryodrgn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.durable_files import make_output_directory
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.options.export_cryodrgn import ExportCryodrgnSettings
from cryodrgn_ext.metadata.cryodrgn_particles import lost_by_cryodrgn
from cryodrgn_ext.metadata.cryodrgn_pickle import write_ctf, write_indices, write_latents, write_poses
from cryodrgn_ext.metadata.particle_writing import write_particles_star
from cryodrgn_ext.metadata.particles import ParticleSet
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.chosen_rows import chosen_rows, listed_rows
from cryodrgn_ext.results.latent_tables import LatentTable
from cryodrgn_ext.results.learned_result import read_result_or_particles
from cryodrgn_ext.results.record import fingerprint_particles, refuse_foreign_files, refuse_other_results, write_record
from cryodrgn_ext.workflow.job_result import JobResult, ParticleOutput


def export_cryodrgn(settings: ExportCryodrgnSettings, monitor: Monitor) -> JobResult:
    """Write poses.pkl, ctf.pkl, z.pkl where there are latents, particles.star, and ind.pkl: which rows these are.

    Parameters
    ----------
    settings : ExportCryodrgnSettings
    monitor : Monitor

    Returns
    -------
    JobResult
        The particles, in the order of the pickles.

    Raises
    ------
    InputError
        When the input cannot be read, has no poses, or does not know the size of its images.
    """
    given = read_result_or_particles(settings.in_parts, settings.project)
    latents: LatentTable | None = None
    if isinstance(given, ParticleSet):
        particles, rows = given, np.arange(given.n)
        if settings.indices is not None:
            rows = listed_rows(settings.indices, particles)
    else:
        particles, rows, latents = given.particles, chosen_rows(given, settings.indices), given.latents
    if len(rows) == 0:
        raise InputError(f"{settings.indices} names no particles: nothing was written.")
    refuse_other_results(settings.o, "export-cryodrgn")
    chosen, output = particles.subset(rows), settings.o / "particles.star"
    if output.resolve() in {path.resolve() for path in particles.files}:
        raise InputError(f"--o is {settings.o}, where the input lies: inputs are never overwritten.")
    refuse_foreign_files(settings.o)
    make_output_directory(settings.o)
    write_poses(settings.o / "poses.pkl", chosen)
    write_ctf(settings.o / "ctf.pkl", chosen)
    if latents is not None:
        write_latents(settings.o / "z.pkl", latents.z[rows], _log_variance(latents, rows))
    if len(rows) < particles.n:
        write_indices(settings.o / "ind.pkl", rows)  # for pickles of all of them
    write_particles_star(chosen, output)
    _say_lost(chosen, monitor)
    inputs = {"in_parts": fingerprint_particles(settings.in_parts, particles.files)}
    write_record(settings.o, "export-cryodrgn", "finished", settings, inputs, {"particles": len(rows)})
    written = "poses.pkl, ctf.pkl" + ("" if latents is None else ", z.pkl")
    monitor.message(
        f"{len(rows)} particles in {settings.o}: {written}; their images by {output} with --datadir "
        f"{particles.project_dir}"
    )
    return JobResult(settings.o, (ParticleOutput(uid=chosen.uid, path=output, title="Exported particles"),))


def _say_lost(particles: ParticleSet, monitor: Monitor) -> None:
    lost = lost_by_cryodrgn(particles)
    if lost:
        monitor.message(f"Not in the pickles, which have no place for them: {', '.join(lost)}.")
    if particles.source.dark_on_light(particles.row_id):
        monitor.message("Note: these particles are dark on light: run cryodrgn with --uninvert-data.")


def _log_variance(latents: LatentTable, rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """(n, q) logarithms of the variances of the latents, where an engine defined them."""
    if latents.z_cov is None:
        return None
    variance = np.diagonal(latents.z_cov[rows], axis1=1, axis2=2)
    return np.log(np.maximum(variance, np.finfo(np.float32).tiny)).astype(np.float32)

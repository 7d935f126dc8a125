"""The job that writes particles, poses, CTF and latents in the formats of the public cryodrgn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cryodrgn_particles import lost_by_cryodrgn
from cryodrgn_ext.metadata.cryodrgn_pickle import write_ctf, write_indices, write_latents, write_poses
from cryodrgn_ext.metadata.cryodrgn_run import EXPORTED
from cryodrgn_ext.metadata.ctf_applied import refuse_premultiplied
from cryodrgn_ext.metadata.image_checks import check_present_images
from cryodrgn_ext.metadata.particle_writing import write_particles_star
from cryodrgn_ext.metadata.particles import ParticleSet
from cryodrgn_ext.metadata.tilt_series import tilt_series_warnings
from cryodrgn_ext.options.export_cryodrgn import ExportCryodrgnSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.chosen_rows import chosen_rows, listed_rows
from cryodrgn_ext.results.latent_tables import LatentTable
from cryodrgn_ext.results.learned_result import read_result_or_particles
from cryodrgn_ext.results.record import fingerprint_particles
from cryodrgn_ext.workflow.job_result import JobResult, ParticleOutput
from cryodrgn_ext.workflow.job_run import CheckedInputs, JobRun


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
    return ExportRun.start(settings, monitor)


@dataclass(frozen=True, kw_only=True)
class ExportInputs(CheckedInputs):
    """The particles, which rows of them are written, and their latents, if they have any."""

    particles: ParticleSet
    rows: NDArray[np.int64]
    latents: LatentTable | None


class ExportRun(JobRun[ExportCryodrgnSettings, ExportInputs]):
    """One run of the job."""

    name = "export-cryodrgn"

    @classmethod
    def check(cls, settings: ExportCryodrgnSettings, monitor: Monitor) -> ExportInputs:
        """Read the result or the particles; see :meth:`JobRun.check`."""
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
        refuse_premultiplied(particles.subset(rows), "cryodrgn")
        if (settings.o / EXPORTED).resolve() in {path.resolve() for path in particles.files}:
            raise InputError(f"--o is {settings.o}, where the input lies: inputs are never overwritten.")
        images = check_present_images(particles.subset(rows))
        for note in (*particles.notes, *images):
            monitor.message(note if note.startswith("Warning") else f"Note: {note}")
        record = {"in_parts": fingerprint_particles(settings.in_parts, particles.files)}
        return ExportInputs(record=record, particles=particles, rows=rows, latents=latents)

    def work(self) -> tuple[Mapping[str, Any], JobResult]:
        """Write the files."""
        particles, rows, latents = self.inputs.particles, self.inputs.rows, self.inputs.latents
        chosen, directory = particles.subset(rows), self.settings.o
        output = directory / EXPORTED
        write_poses(directory / "poses.pkl", chosen)
        write_ctf(directory / "ctf.pkl", chosen)
        if latents is not None:
            write_latents(directory / "z.pkl", latents.z[rows], latents.log_variance(rows))
        if len(rows) < particles.n:
            write_indices(directory / "ind.pkl", rows)  # for pickles of all of them
        write_particles_star(chosen, output)
        _say_lost(chosen, self.monitor)
        written = "poses.pkl, ctf.pkl" + ("" if latents is None else ", z.pkl")
        self.monitor.message(
            f"{len(rows)} particles in {directory}: {written}; their images by {output} with --datadir "
            f"{particles.project_dir}"
        )
        outputs = (ParticleOutput(uid=chosen.uid, path=output, title="Exported particles"),)
        return {"particles": len(rows)}, JobResult(directory, outputs)


def _say_lost(particles: ParticleSet, monitor: Monitor) -> None:
    for warning in tilt_series_warnings(particles):
        monitor.warn(warning)
    lost = lost_by_cryodrgn(particles)
    if lost:
        monitor.message(f"Not in the pickles, which have no place for them: {', '.join(lost)}.")
    if particles.source.dark_on_light(particles.row_id):
        monitor.message("Note: these particles are dark on light: run cryodrgn with --uninvert-data.")

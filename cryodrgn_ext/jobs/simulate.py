"""The job that simulates a RELION project with known heterogeneity."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.options.simulate import SimulateSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.record import read_record
from cryodrgn_ext.simulate import (
    Motion,
    RelionProject,
    choose_motion,
    empty_pipeline,
    simulate_particles,
    write_relion_project,
)
from cryodrgn_ext.workflow.job_result import JobResult, MapOutput, ParticleOutput
from cryodrgn_ext.workflow.job_run import CheckedInputs, JobRun


def make_project(settings: SimulateSettings, monitor: Monitor) -> RelionProject:
    """Simulate particles and write them as a RELION project in ``settings.o``."""
    particles = simulate_particles(
        settings.particles,
        motion=_motion(settings),
        box_size=settings.box,
        pixel_size_A=settings.pixel_size_A,
        snr=settings.snr,
        seed=settings.seed,
    )
    return write_relion_project(settings.o, particles, monitor=monitor)


def _motion(settings: SimulateSettings) -> Motion:
    return choose_motion(settings.motion, settings.angle, settings.rare_fraction, settings.seed)


def refuse_project_in_use(directory: Path) -> None:
    """Raise InputError when a simulation would replace files of somebody's RELION project."""
    pipeline = directory / "default_pipeline.star"
    if read_record(directory) is None and pipeline.exists() and pipeline.read_bytes() != empty_pipeline().encode():
        raise InputError(f"{directory} is a RELION project with jobs, whose files a simulation could replace: give a "
                         "new directory with --o.")  # fmt: skip


def simulate(settings: SimulateSettings, monitor: Monitor) -> JobResult:
    """Simulate a RELION project.

    Parameters
    ----------
    settings : SimulateSettings
    monitor : Monitor

    Returns
    -------
    JobResult
        The particles, the reference and the mask.

    Raises
    ------
    InputError
        When the box is too small for the specimen, or the project cannot be written.
    """
    return SimulateRun.start(settings, monitor)


class SimulateRun(JobRun[SimulateSettings, CheckedInputs]):
    """One run of the job."""

    name = "simulate"

    @classmethod
    def check(cls, settings: SimulateSettings, monitor: Monitor) -> CheckedInputs:
        """Look at the directory and the motion; see :meth:`JobRun.check`."""
        refuse_project_in_use(settings.o)
        _motion(settings)
        return CheckedInputs(record={})

    def work(self) -> tuple[Mapping[str, Any], JobResult]:
        """Make the project."""
        project = make_project(self.settings, self.monitor)
        self.monitor.message(f"Project: {project.directory}")
        self.monitor.message(f"  particles  {project.particles_star}")
        self.monitor.message(f"  reference  {project.reference}, mask {project.mask}, truth {project.truth}")
        outputs = (
            ParticleOutput(path=project.particles_star, uid=read_particles(project.particles_star).uid),
            MapOutput(path=project.reference, mask=project.mask),
        )
        return {"particles": self.settings.particles}, JobResult(self.settings.o, outputs)

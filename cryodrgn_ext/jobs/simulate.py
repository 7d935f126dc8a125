"""The job that simulates a RELION project with known heterogeneity."""

from __future__ import annotations

from pathlib import Path

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.options.simulate import SimulateSettings
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.record import read_record, refuse_other_results, write_record
from cryodrgn_ext.simulate import (
    MOTIONS,
    Motion,
    RareStateMotion,
    RelionProject,
    empty_pipeline,
    simulate_particles,
    two_domain_protein,
    write_relion_project,
)
from cryodrgn_ext.workflow.job_result import JobResult, MapOutput, ParticleOutput
from cryodrgn_ext.workflow.threads import use_threads


def choose_motion(settings: SimulateSettings) -> Motion:
    """Specimen that the settings ask for.

    Raises
    ------
    InputError
        When an angle is given to a motion that has none to choose.
    """
    if settings.motion == "hinge":
        motion: Motion = two_domain_protein(settings.seed, settings.angle)
    else:
        default = SimulateSettings(o=settings.o).angle
        if settings.angle != default:
            raise InputError(f"--angle belongs to --motion hinge, not to {settings.motion}: leave it out.")
        motion = MOTIONS[settings.motion](settings.seed)
    if settings.rare_fraction > 0:
        return RareStateMotion(motion, settings.rare_fraction, settings.seed)
    return motion


def make_project(settings: SimulateSettings, monitor: Monitor) -> RelionProject:
    """Simulate particles and write them as a RELION project in ``settings.o``."""
    particles = simulate_particles(
        settings.particles,
        motion=choose_motion(settings),
        box_size=settings.box,
        pixel_size_A=settings.pixel_size_A,
        snr=settings.snr,
        seed=settings.seed,
    )
    return write_relion_project(settings.o, particles, monitor=monitor)


def refuse_project_in_use(directory: Path, job: str) -> None:
    """Raise InputError when a simulation would replace files of another job, or of somebody's RELION project."""
    refuse_other_results(directory, job)
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
    use_threads(settings.j)
    refuse_project_in_use(settings.o, "simulate")
    project = make_project(settings, monitor)
    write_record(settings.o, "simulate", "finished", settings, {}, {"particles": settings.particles})
    monitor.message(f"Project: {project.directory}")
    monitor.message(f"  particles  {project.particles_star}")
    monitor.message(f"  reference  {project.reference}, mask {project.mask}, truth {project.truth}")
    return JobResult(
        settings.o,
        (
            ParticleOutput(path=project.particles_star, uid=read_particles(project.particles_star).uid),
            MapOutput(path=project.reference, mask=project.mask),
        ),
    )

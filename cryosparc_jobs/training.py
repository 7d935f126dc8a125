"""Training as an External job of CryoSPARC: from the particles of a refinement to states in the same project."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cryodrgn_ext.jobs.options.train import TrainSettings
from cryodrgn_ext.jobs.registry import JOBS
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.workflow.job_result import JobResult
from cryosparc_jobs.client import create_external_job, project_directory
from cryosparc_jobs.job_settings import all_settings, checked_settings, description
from cryosparc_jobs.parents import find_map, find_particles, map_path
from cryosparc_jobs.particles import wanted_slots, write_particles
from cryosparc_jobs.publication import INPUT
from cryosparc_jobs.publish import publish
from cryosparc_jobs.running import FinishedJob, refuse_results_of_others, result_directory, run_job

TITLE = "cryodrgn-ext: train"
OURS = {
    "in_parts": "the particles come from the parent job (particles=, --particles)",
    "o": "the result directory is directory= (--directory)",
}
# Arguments that name a map of another job, and the settings that take its file.
MAP_SETTINGS = {"mask": "in_mask", "volume": "in_3dref"}


def train(
    cs: Any,
    *,
    project: str,
    workspace: str,
    particles: Any,
    mask: Any = None,
    volume: Any = None,
    directory: str | Path | None = None,
    title: str = TITLE,
    **settings: Any,
) -> FinishedJob:
    """Learn the heterogeneity of a finished refinement of a CryoSPARC project, as an External job of it.

    Parameters
    ----------
    cs : cryosparc.tools.CryoSPARC
        A client that is logged in; see :func:`cryosparc_jobs.client.connect`.
    project, workspace : str
        Uids, as ``P1`` and ``W1``.
    particles : str, job, or pair
        The parent job and its output, as ``("J42", "particles")``. The job may be what ``cs.find_job`` returned, and
        the output may be left out where only one has orientations.
    mask : str, job, or pair, optional
        Solvent mask of a job, as ``("J12", "mask")``; a file goes into ``in_mask`` instead.
    volume : str, job, or pair, optional
        Map of the refinement, as ``("J42", "volume")``, to be compared with our consensus.
    directory : path-like, optional
        Result directory on this machine; ``<project>_<job>`` in the working directory when omitted. That of an
        interrupted run of the same particles and settings continues it.
    title : str
        Of the job's card.
    **settings
        Fields of :class:`cryodrgn_ext.jobs.options.train.TrainSettings`, except for ``in_parts`` and ``o``.

    Returns
    -------
    FinishedJob

    Raises
    ------
    InputError
        When a setting, the parent or its particles cannot be used; before a job is created where it can be known.
    JobAborted
        When the job was killed in the web page, or otherwise no longer runs.
    MasterError
        When CryoSPARC cannot be reached, refuses something, or does not keep what it was sent.
    """
    maps = {what: given for what, given in (("mask", mask), ("volume", volume)) if given is not None}
    taken = {MAP_SETTINGS[what]: f"the file comes from {what}= (--{what})" for what in maps}
    checked = checked_settings(TrainSettings, settings, OURS | taken)
    refuse_results_of_others(directory, "train")
    source = find_particles(cs, project, particles)
    slots = wanted_slots(source)
    map_sources = {what: find_map(cs, project, given, what) for what, given in maps.items()}
    root = project_directory(cs, project)
    job = create_external_job(
        cs, project, workspace, title, description("Heterogeneity of a refinement.", checked, OURS)
    )
    job.connect(INPUT, source, slots)
    for what, (map_source, slot) in map_sources.items():
        job.connect(what, map_source, [slot])
    where = result_directory(job, directory)

    def work(monitor: Monitor) -> tuple[JobResult, tuple[str, ...]]:
        monitor.message(f"Results on the machine where it runs: {where}")
        monitor.message(all_settings(checked, OURS))
        files = {MAP_SETTINGS[what]: map_path(job.load_input(what, [slot.name]), slot.name, root)
                 for what, (_, slot) in map_sources.items()}  # fmt: skip
        complete = replace(checked, in_parts=where / "input_particles.cs", o=where, **files)  # type: ignore[arg-type]
        rows = job.load_input(INPUT, [slot.name for slot in slots])
        write_particles(complete.in_parts, rows, root)
        monitor.poll()
        result = JOBS["train"].load()(complete, monitor)
        job.checkpoint()
        return result, publish(job, rows, result, monitor)

    return run_job(job, where, "train", work)

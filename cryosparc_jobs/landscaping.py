"""Landscape as an External job of CryoSPARC: clusters of a trained model's volumes on the parent's particles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cryodrgn_ext.jobs.options.landscape import LandscapeSettings
from cryodrgn_ext.jobs.registry import JOBS
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.learned_result import read_learned_result
from cryodrgn_ext.workflow.job_result import JobResult
from cryosparc_jobs.client import create_external_job, project_directory
from cryosparc_jobs.job_settings import all_settings, checked_settings, description
from cryosparc_jobs.parents import find_map, map_path
from cryosparc_jobs.particles import wanted_slots
from cryosparc_jobs.publication import INPUT
from cryosparc_jobs.publish import publish
from cryosparc_jobs.running import FinishedJob, refuse_results_of_others, result_directory, run_job
from cryosparc_jobs.train_results import find_result

TITLE = "cryodrgn-ext: landscape"
OURS = {
    "in_parts": "what was learned comes from result= (--result)",
    "o": "the result directory is directory= (--directory)",
}


def landscape(
    cs: Any,
    *,
    project: str,
    workspace: str,
    result: Any,
    particles: Any = None,
    mask: Any = None,
    directory: str | Path | None = None,
    title: str = TITLE,
    **settings: Any,
) -> FinishedJob:
    """Cluster the volumes of a trained model into states, and map all particles onto their principal components.

    Parameters
    ----------
    cs : cryosparc.tools.CryoSPARC
    project, workspace : str
        Uids, as ``P1`` and ``W1``.
    result : str, path, or job
        The train, abinit or landscape job, as ``"J43"``, or its result directory on this machine.
    particles : str, job, or pair, optional
        The particles of the project that these are; those of that job when omitted.
    mask : str, job, or pair, optional
        Region of a job to compare volumes in, as ``("J12", "mask")``; where the volumes are dense when omitted.
    directory : path-like, optional
        Result directory on this machine; ``<project>_<job>`` in the working directory when omitted. That of an
        interrupted run continues it.
    title : str
        Of the job's card.
    **settings
        Fields of :class:`cryodrgn_ext.jobs.options.landscape.LandscapeSettings`, except for ``in_parts`` and ``o``.

    Returns
    -------
    FinishedJob
        Per cluster its outputs are particles and a volume (the average of the cluster's volumes, without half-maps);
        ``mask_compared`` is where volumes were compared, and ``particles_all`` has the volume components as
        ``components_mode_0``, ... Select and validate take the job as their ``result``.

    Raises
    ------
    InputError
        When a setting, the result or the particles cannot be used.
    JobAborted
        When the job was killed in the web page, or otherwise no longer runs.
    MasterError
        When CryoSPARC cannot be reached, refuses something, or does not keep what it was sent.
    """
    ours = OURS if mask is None else OURS | {"in_mask": "the file comes from mask= (--mask)"}
    checked = checked_settings(LandscapeSettings, settings, ours)
    trained_in, source = find_result(cs, project, result, particles)
    refuse_results_of_others(directory, "landscape")
    read_learned_result(trained_in).require_latents()
    slots = wanted_slots(source)
    n_taken = sum(slot.startswith("components_mode_") for slot in source.slots)
    found = None if mask is None else find_map(cs, project, mask, "mask")
    root = project_directory(cs, project)
    job = create_external_job(
        cs, project, workspace, title, description(f"Volumes of the result in {trained_in}.", checked, OURS)
    )
    job.connect(INPUT, source, slots)
    if found is not None:
        job.connect("mask", found[0], [found[1]])
    where = result_directory(job, directory)

    def work(monitor: Monitor) -> tuple[JobResult, tuple[str, ...]]:
        monitor.message(f"Results on the machine where it runs: {where}")
        monitor.message(all_settings(checked, OURS))
        complete = replace(checked, in_parts=trained_in, o=where)
        if found is not None:
            slot = found[1].name
            complete = replace(complete, in_mask=map_path(job.load_input("mask", [slot]), slot, root))
        rows = job.load_input(INPUT, [slot.name for slot in slots])
        done = JOBS["landscape"].load()(complete, monitor)
        job.checkpoint()
        return done, publish(job, rows, done, monitor, n_taken=n_taken)

    return run_job(job, where, "landscape", work)

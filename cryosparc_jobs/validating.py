"""Validating as an External job of CryoSPARC: the states of a train job anew, at full size, with evidence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cryodrgn_ext.jobs.options.validate import ValidateSettings
from cryodrgn_ext.jobs.registry import JOBS
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.workflow.job_result import JobResult
from cryosparc_jobs.client import create_external_job, project_directory
from cryosparc_jobs.job_settings import all_settings, checked_settings, description
from cryosparc_jobs.parents import find_map, map_path
from cryosparc_jobs.particles import wanted_slots
from cryosparc_jobs.publication import INPUT
from cryosparc_jobs.publish import publish
from cryosparc_jobs.running import FinishedJob, refuse_results_of_others, result_directory, run_job
from cryosparc_jobs.train_results import find_result

TITLE = "cryodrgn-ext: validate"
OURS = {
    "in_parts": "what was learned comes from result= (--result)",
    "o": "the result directory is directory= (--directory)",
}


def validate(
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
    """Reconstruct states from their original images at full size, in two halves, and test each against chance.

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
        Solvent mask of a job for all states, as ``("J12", "mask")``; each state gets its own when omitted.
    directory : path-like, optional
        Result directory on this machine; ``<project>_<job>`` in the working directory when omitted. That of an
        interrupted run continues it.
    title : str
        Of the job's card.
    **settings
        Fields of :class:`cryodrgn_ext.jobs.options.validate.ValidateSettings`, except for ``in_parts`` and ``o``.

    Returns
    -------
    FinishedJob
        Per state its outputs are particles, a volume with half-maps, and a mask.

    Raises
    ------
    InputError
        When a setting, the result, its images or the particles cannot be used.
    JobAborted
        When the job was killed in the web page, or otherwise no longer runs.
    MasterError
        When CryoSPARC cannot be reached, refuses something, or does not keep what it was sent.
    """
    ours = OURS if mask is None else OURS | {"in_mask": "the file comes from mask= (--mask)"}
    checked = checked_settings(ValidateSettings, settings, ours)
    trained_in, source = find_result(cs, project, result, particles)
    refuse_results_of_others(directory, "validate")
    slots = wanted_slots(source)
    found = None if mask is None else find_map(cs, project, mask, "mask")
    root = project_directory(cs, project)
    job = create_external_job(
        cs, project, workspace, title, description(f"States of the result in {trained_in}, tested.", checked, OURS)
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
        done = JOBS["validate"].load()(complete, monitor)
        job.checkpoint()
        return done, publish(job, rows, done, monitor)

    return run_job(job, where, "validate", work)

"""Selecting as an External job of CryoSPARC: groups of the parent's particles, chosen by what a train job learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cryodrgn_ext.jobs.options.select import SelectSettings
from cryodrgn_ext.jobs.registry import JOBS
from cryodrgn_ext.jobs.selection_groups import read_selection
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.workflow.job_result import JobResult
from cryosparc_jobs.client import create_external_job
from cryosparc_jobs.job_settings import all_settings, checked_settings, description
from cryosparc_jobs.particles import wanted_slots
from cryosparc_jobs.publication import INPUT
from cryosparc_jobs.publish import publish
from cryosparc_jobs.running import FinishedJob, refuse_results_of_others, result_directory, run_job
from cryosparc_jobs.train_results import find_result

TITLE = "cryodrgn-ext: select"
OURS = {
    "in_parts": "what was learned comes from result= (--result)",
    "o": "the particles return to the project",
    "star_columns": "there is no STAR file",
}


def select(
    cs: Any,
    *,
    project: str,
    workspace: str,
    result: Any,
    particles: Any = None,
    directory: str | Path | None = None,
    title: str = TITLE,
    **settings: Any,
) -> FinishedJob:
    """Return particles by state, cluster, latent range or index, one output per state or cluster.

    Parameters
    ----------
    cs : cryosparc.tools.CryoSPARC
    project, workspace : str
        Uids, as ``P1`` and ``W1``.
    result : str, path, or job
        The train, abinit or landscape job, as ``"J43"``, or its result directory on this machine.
    particles : str, job, or pair, optional
        The particles of the project that these are; those of that job when omitted.
    directory : path-like, optional
        Where run.log goes; ``<project>_<job>`` in the working directory when omitted.
    title : str
        Of the job's card.
    **settings
        Fields of :class:`cryodrgn_ext.jobs.options.select.SelectSettings`, such as ``state=(0, 2)``, except for
        ``in_parts``, ``o`` and ``star_columns``.

    Returns
    -------
    FinishedJob
        Its outputs are ``particles_state_00``, ``particles_cluster_03`` or ``particles_selected``, and
        ``particles_rest`` with what was not chosen.

    Raises
    ------
    InputError
        When a setting, the result or the particles cannot be used, or a group is empty; before a job is created.
    JobAborted
        When the job was killed in the web page, or otherwise no longer runs.
    MasterError
        When CryoSPARC cannot be reached, refuses something, or does not keep what it was sent.
    """
    checked = checked_settings(SelectSettings, settings, OURS)
    trained_in, source = find_result(cs, project, result, particles)
    refuse_results_of_others(directory, "select")
    slots = wanted_slots(source)
    root = Path(f"{project}_selection").absolute() if directory is None else Path(directory).absolute()
    read_selection(replace(checked, in_parts=trained_in, o=root))
    job = create_external_job(
        cs, project, workspace, title, description(f"Particles chosen by the result in {trained_in}.", checked, OURS)
    )
    job.connect(INPUT, source, slots)
    where = result_directory(job, directory)

    def work(monitor: Monitor) -> tuple[JobResult, tuple[str, ...]]:
        monitor.message(all_settings(checked, OURS))
        monitor.message(f"Latents and states from {trained_in}")
        rows = job.load_input(INPUT, [slot.name for slot in slots])
        done = JOBS["select"].load()(replace(checked, in_parts=trained_in, o=where, particles_format="cs"), monitor)
        return done, publish(job, rows, done, monitor, subset=particles is None)

    return run_job(job, where, "select", work)

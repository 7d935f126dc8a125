"""Poses from nothing as an External job of CryoSPARC: the parent's particles with orientations, a map, its halves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cryodrgn_ext.jobs.options.abinit import AbinitSettings
from cryodrgn_ext.jobs.registry import JOBS
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.workflow.job_result import JobResult
from cryosparc_jobs.client import create_external_job, project_directory
from cryosparc_jobs.job_settings import all_settings, checked_settings, description
from cryosparc_jobs.parents import find_map, find_particles, map_path
from cryosparc_jobs.particles import ORIGINS, UNPOSED, WELCOME, wanted_slots, write_particles
from cryosparc_jobs.publication import INPUT
from cryosparc_jobs.publish import publish
from cryosparc_jobs.running import FinishedJob, refuse_results_of_others, result_directory, run_job

TITLE = "cryodrgn-ext: abinit"
OURS = {
    "in_parts": "the particles come from the parent job (particles=, --particles)",
    "o": "the result directory is directory= (--directory)",
    "particles_format": "CryoSPARC takes a .cs",
    "star_columns": "CryoSPARC takes a .cs",
}


def abinit(
    cs: Any,
    *,
    project: str,
    workspace: str,
    particles: Any,
    volume: Any = None,
    directory: str | Path | None = None,
    title: str = TITLE,
    **settings: Any,
) -> FinishedJob:
    """Find poses and a map of particles of a CryoSPARC project that have none, as an External job of it.

    Parameters
    ----------
    cs : cryosparc.tools.CryoSPARC
        A client that is logged in; see :func:`cryosparc_jobs.client.connect`.
    project, workspace : str
        Uids, as ``P1`` and ``W1``.
    particles : str, job, or pair
        The parent job and its output, as ``("J42", "particles")``: extracted particles with CTF, or those of a 2D
        selection. Orientations that they have are ignored; shifts may be used, see ``use_origins``.
    volume : str, job, or pair, optional
        Map of a job that the result is brought onto, as ``("J12", "volume")``; a file goes into ``in_3dref`` instead.
    directory : path-like, optional
        Result directory on this machine; ``<project>_<job>`` in the working directory when omitted. That of an
        interrupted run of the same particles and settings continues it.
    title : str
        Of the job's card.
    **settings
        Fields of :class:`cryodrgn_ext.jobs.options.abinit.AbinitSettings`, except for those in ``OURS``.

    Returns
    -------
    FinishedJob
        Its outputs are ``particles`` (the parent's own, with alignments3D of ours, and latents as components_mode_0,
        ... when ``zdim`` is given), ``volume`` with half-maps, and ``mask``.

    Raises
    ------
    InputError
        When a setting, the parent or its particles cannot be used; before a job is created where it can be known.
    JobAborted
        When the job was killed in the web page, or otherwise no longer runs.
    MasterError
        When CryoSPARC cannot be reached, refuses something, or does not keep what it was sent.
    """
    taken = {} if volume is None else {"in_3dref": "the file comes from volume= (--volume)"}
    checked = checked_settings(AbinitSettings, settings, OURS | taken)
    refuse_results_of_others(directory, "abinit")
    source = find_particles(cs, project, particles, UNPOSED)
    shifts = [] if checked.use_origins == "no" else [slot for slot in ORIGINS if slot in source.slots][:1]
    slots = wanted_slots(source, UNPOSED, (*WELCOME, *shifts))
    reference = None if volume is None else find_map(cs, project, volume, "volume")
    root = project_directory(cs, project)
    job = create_external_job(cs, project, workspace, title, description("Poses from nothing.", checked, OURS))
    job.connect(INPUT, source, slots)
    if reference is not None:
        job.connect("volume", reference[0], [reference[1]])
    where = result_directory(job, directory)

    def work(monitor: Monitor) -> tuple[JobResult, tuple[str, ...]]:
        monitor.message(f"Results on the machine where it runs: {where}")
        monitor.message(all_settings(checked, OURS))
        complete = replace(checked, in_parts=where / "input_particles.cs", o=where, particles_format="cs")
        if reference is not None:
            slot = reference[1].name
            complete = replace(complete, in_3dref=map_path(job.load_input("volume", [slot]), slot, root))
        rows = job.load_input(INPUT, [slot.name for slot in slots])
        write_particles(complete.in_parts, rows, root)
        monitor.poll()
        result = JOBS["abinit"].load()(complete, monitor)
        job.checkpoint()
        return result, publish(job, rows, result, monitor)

    return run_job(job, where, "abinit", work)

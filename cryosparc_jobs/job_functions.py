"""The function of each job, ``cryosparc_jobs.train`` and so on: made from the registry, all on one path."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.workflow.job_result import JobResult
from cryosparc_jobs.client import create_external_job, project_directory
from cryosparc_jobs.job_kinds import JobKind
from cryosparc_jobs.job_settings import all_settings, description
from cryosparc_jobs.learned_results import find_result
from cryosparc_jobs.parents import find_map, find_particles, map_path
from cryosparc_jobs.particles import ORIGINS, WELCOME, wanted_slots, write_particles
from cryosparc_jobs.publication import INPUT
from cryosparc_jobs.publish import publish
from cryosparc_jobs.running import FinishedJob, refuse_results_of_others, result_directory, run_job


@functools.cache
def job_function(kind: JobKind) -> Callable[..., FinishedJob]:
    """Make the function of a job, with signature and documentation."""
    signature = kind.signature()

    def function(*arguments: Any, **named: Any) -> FinishedJob:
        bound = signature.bind(*arguments, **named)
        bound.apply_defaults()
        given = dict(bound.arguments)
        connected = {name: given.pop(name) for name in kind.connections}
        return run_external(kind, given.pop("cs"), connected, **given)

    function.__name__ = function.__qualname__ = kind.name.replace("-", "_")
    function.__module__ = "cryosparc_jobs"
    function.__doc__ = kind.documentation()
    function.__signature__ = signature  # type: ignore[attr-defined]  # what inspect looks at first
    return function


def run_external(
    kind: JobKind,
    cs: Any,
    connected: Mapping[str, Any],
    *,
    project: str,
    workspace: str,
    directory: str | Path | None,
    title: str,
    settings: Mapping[str, Any],
) -> FinishedJob:
    """Create an External job, connect it, run our job and publish what it made.

    Parameters
    ----------
    kind : JobKind
    cs : cryosparc.tools.CryoSPARC
    connected : mapping
        What the user named of the project, by argument of :attr:`JobKind.connections`; None for what was left out.
    project, workspace, directory, title, settings
        See :meth:`JobKind.documentation`.

    Returns
    -------
    FinishedJob

    Raises
    ------
    InputError, JobAborted, MasterError
        See :meth:`JobKind.documentation`.
    """
    given_maps = {what: connected[what] for what in kind.maps if connected.get(what) is not None}
    kind.check(settings, given_maps)
    refuse_results_of_others(directory, kind.name)
    particles, learned = connected.get("particles"), None
    if kind.takes_result:
        learned, source = find_result(cs, project, connected["result"], particles)
        slots = wanted_slots(source)
    else:
        source = find_particles(cs, project, particles, kind.needed_slots)
        # A job that finds alignments by itself may begin from the shifts that there are.
        shifts = [slot for slot in ORIGINS if slot in source.slots and slot not in kind.needed_slots][:1]
        slots = wanted_slots(source, kind.needed_slots, (*WELCOME, *shifts))
    maps = {what: find_map(cs, project, given, what) for what, given in given_maps.items()}
    root, decided = project_directory(cs, project), kind.decided(given_maps)
    draft = kind.complete(settings, Path(f"{project}_{kind.name}" if directory is None else directory), learned)
    check = kind.job.load_check() if kind.takes_result else None
    if check is not None:
        check(draft, SilentMonitor())
    summary = kind.job.summary if learned is None else f"{kind.job.summary} Of the result in {learned}."
    job = create_external_job(cs, project, workspace, title, description(summary, draft, decided))
    job.connect(INPUT, source, slots)
    for what, (map_source, slot) in maps.items():
        job.connect(what, map_source, [slot])
    where = result_directory(job, directory)

    def work(monitor: Monitor) -> tuple[JobResult, tuple[str, ...]]:
        monitor.message(f"Results on the machine where it runs: {where}")
        monitor.message(all_settings(draft, decided))
        files = {
            kind.maps[what]: map_path(job.load_input(what, [slot.name]), slot.name, root)
            for what, (_, slot) in maps.items()
        }
        complete = replace(kind.complete(settings, where, learned), **files)
        rows = job.load_input(INPUT, [slot.name for slot in slots])
        if learned is None:
            write_particles(complete.in_parts, rows, root)  # type: ignore[attr-defined]  # all kinds have it
        monitor.poll()
        result = kind.job.load()(complete, monitor)
        job.checkpoint()
        n_taken = sum(slot.startswith("components_mode_") for slot in source.slots)
        of_that_job = kind.takes_result and particles is None
        return result, publish(job, rows, result, monitor, n_taken=n_taken, subset=of_that_job)

    return run_job(job, where, kind.name, work)

"""The function of each job, ``cryosparc_jobs.train`` and so on: made from the registry, all on one path."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.workflow.job_result import JobResult
from cryosparc_jobs.client import create_external_job, project_directory
from cryosparc_jobs.external_job import ExternalJob
from cryosparc_jobs.job_kinds import INPUT_FILE, JobKind
from cryosparc_jobs.job_settings import all_settings, description
from cryosparc_jobs.learned_results import find_result
from cryosparc_jobs.parents import find_map, find_particles, map_path
from cryosparc_jobs.particles import LATENTS, ORIGINS, WELCOME, wanted_slots, write_particles
from cryosparc_jobs.publication import INPUT
from cryosparc_jobs.publish import publish
from cryosparc_jobs.running import FinishedJob, refuse_results_of_others, result_directory, run_job
from cryosparc_jobs.slots import Slot, SourceOutput


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

    function.__name__ = function.__qualname__ = kind.job.identifier
    function.__module__ = "cryosparc_jobs"
    function.__doc__ = kind.documentation()
    function.__signature__ = signature  # type: ignore[attr-defined]  # what inspect looks at first
    return function


@dataclass(frozen=True)
class Parents:
    """Outputs that a job is connected to.

    Attributes
    ----------
    learned : Path or None
        Result directory that the job goes on from.
    source : SourceOutput
        The particles.
    slots : list of Slot
        Of the particles: those to connect.
    maps : mapping
        Output and slot of each map, by the name of the input.
    of_that_job : bool
        Whether the particles are those of the job that learned.
    """

    learned: Path | None
    source: SourceOutput
    slots: list[Slot]
    maps: Mapping[str, tuple[SourceOutput, Slot]]
    of_that_job: bool

    @property
    def n_components(self) -> int:
        """Number of slots components_mode_0 .. that the particles have."""
        return sum(slot.startswith(LATENTS) for slot in self.source.slots)

    def connect(self, job: ExternalJob) -> None:
        """Connect all of them."""
        job.connect(INPUT, self.source, self.slots)
        for what, (source, slot) in self.maps.items():
            job.connect(what, source, [slot])


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
    parents = _find_parents(kind, cs, project, connected, given_maps)
    root, decided = project_directory(cs, project), kind.decided(given_maps)
    there = Path(f"{project}_{kind.name}" if directory is None else directory)
    draft = kind.complete(settings, there, parents.learned).settings
    check = kind.job.load_check() if kind.takes_result else None
    if check is not None:
        check(draft, SilentMonitor())
    summary = f"{kind.job.summary} Of the result in {parents.learned}." if kind.takes_result else kind.job.summary
    job = create_external_job(cs, project, workspace, title, description(summary, draft, decided))
    parents.connect(job)
    where = result_directory(job, directory)

    def work(monitor: Monitor) -> tuple[JobResult, tuple[str, ...]]:
        monitor.message(f"Results on the machine where it runs: {where}")
        monitor.message(all_settings(draft, decided))
        files = {
            kind.maps[what]: map_path(job.load_input(what, [slot.name]), slot.name, root)
            for what, (_, slot) in parents.maps.items()
        }
        completed = kind.complete(settings, where, parents.learned)
        for sentence in completed.sentences:
            monitor.message(sentence)
        complete = replace(completed.settings, **files)
        rows = job.load_input(INPUT, [slot.name for slot in parents.slots])
        if parents.learned is None:
            write_particles(where / INPUT_FILE, rows, root)
        monitor.poll()
        result = kind.job.load()(complete, monitor)
        job.checkpoint()
        return result, publish(job, rows, result, monitor, n_taken=parents.n_components, subset=parents.of_that_job)

    return run_job(job, where, kind.name, work)


def _find_parents(
    kind: JobKind, cs: Any, project: str, connected: Mapping[str, Any], maps: Mapping[str, Any]
) -> Parents:
    """Find everything that the user named of the project; nothing is made yet."""
    particles, learned = connected.get("particles"), None
    welcome = list(WELCOME)
    if kind.takes_result:
        learned, source = find_result(cs, project, connected["result"], particles)
    else:
        source = find_particles(cs, project, particles, kind.needed_slots)
        # A job that finds alignments by itself may begin from the shifts that there are.
        welcome += [slot for slot in ORIGINS if slot in source.slots and slot not in kind.needed_slots][:1]
    if kind.takes_latents:
        welcome += [slot for slot in source.slots if slot.startswith(LATENTS)]
    slots = wanted_slots(source, kind.needed_slots, welcome)
    found = {what: find_map(cs, project, given, what) for what, given in maps.items()}
    return Parents(learned, source, slots, found, of_that_job=kind.takes_result and particles is None)

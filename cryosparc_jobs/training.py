"""Training as an External job of CryoSPARC: from the particles of a refinement to states in the same project."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.directory_lock import directory_lock
from cryodrgn_ext.jobs.options.train import TrainSettings
from cryodrgn_ext.jobs.outputs import JobResult
from cryodrgn_ext.jobs.registry import JOBS
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.settings import describe, from_values, unknown_option
from cryosparc_jobs.client import create_external_job, find_output, project_directory
from cryosparc_jobs.external_job import ExternalJob
from cryosparc_jobs.lifecycle import POLL_S, run_external_job
from cryosparc_jobs.particles import wanted_slots, write_particles
from cryosparc_jobs.publish import INPUT, publish_states

TITLE = "cryodrgn-ext: train"
# Decided by the particles' origin, not by the user.
OURS = ("in_parts", "o")


@dataclass(frozen=True)
class FinishedJob:
    """A completed External job.

    Attributes
    ----------
    project, uid : str
        Of the job in CryoSPARC.
    result : JobResult
        The result directory on this machine.
    """

    project: str
    uid: str
    result: JobResult


def train(
    cs: Any,
    *,
    project: str,
    workspace: str,
    particles: Sequence[str],
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
    particles : pair of str
        Uid of the parent job and name of its output, as ``("J42", "particles")``.
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
    checked = _checked_settings(settings)
    if isinstance(particles, str) or len(particles) != 2:  # a notebook's user has no type checker
        raise InputError(f'particles must be a job and an output, as ("J42", "particles"), not {particles!r}.')
    source = find_output(cs, project, *particles)
    slots = wanted_slots(source)
    root = project_directory(cs, project)
    job = create_external_job(cs, project, workspace, title, _description(checked))
    job.connect(INPUT, source, slots)
    result_directory = Path(f"{project}_{job.uid}" if directory is None else directory).absolute()

    def work(monitor: Monitor) -> JobResult:
        return _work(job, replace(checked, in_parts=result_directory / "input_particles.cs", o=result_directory),
                     root, [slot.name for slot in slots], monitor)  # fmt: skip

    result_directory.mkdir(parents=True, exist_ok=True)
    with directory_lock(result_directory):
        result = run_external_job(job, result_directory, f"cryosparc train {project}-{job.uid}", work, POLL_S)
    return FinishedJob(project, job.uid, result)


def _work(job: ExternalJob, settings: TrainSettings, root: Path, slots: list[str], monitor: Monitor) -> JobResult:
    monitor.message(f"Results on the machine where it runs: {settings.o}")
    monitor.message(_parameters(settings))
    rows = job.load_input(INPUT, slots)
    write_particles(settings.in_parts, rows, root)
    monitor.poll()
    result = JOBS["train"].load()(settings, monitor)
    job.checkpoint()
    publish_states(job, rows, result.directory, monitor)
    return result


def _checked_settings(given: Mapping[str, Any]) -> TrainSettings:
    known = {field.name for field in describe(TrainSettings)} - set(OURS)
    for name in given:
        if name in OURS:
            raise InputError(f"{name} cannot be given: the particles come from the parent job.")
        if name not in known:
            raise unknown_option(TrainSettings, f"--{name}")
    return from_values(TrainSettings, {**given, "in_parts": Path("particles.cs"), "o": Path("result")})


def _given(settings: TrainSettings) -> dict[str, Any]:
    """The settings that differ from their defaults: an External job has no parameters of its own to show them."""
    plain = settings.to_mapping()
    return {field.name: plain[field.name] for field in describe(TrainSettings)
            if field.name not in OURS and getattr(settings, field.name) != field.default}  # fmt: skip


def _description(settings: TrainSettings) -> str:
    given = _given(settings)
    words = ", ".join(f"{name} = {json.dumps(value)}" for name, value in given.items())
    return f"Heterogeneity of a refinement. Settings: {words or 'defaults'}."


def _parameters(settings: TrainSettings) -> str:
    plain = {name: value for name, value in settings.to_mapping().items() if name not in OURS}
    return "Settings: " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in plain.items())

"""Selecting as an External job of CryoSPARC: groups of the parent's particles, chosen by what a train job learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.options.select import SelectSettings
from cryodrgn_ext.jobs.selected_groups import choose_groups, left_over
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.report.pictures import draw_selection
from cryodrgn_ext.results.learned_result import LearnedResult, read_learned_result
from cryodrgn_ext.workflow.job_result import JobResult
from cryosparc_jobs.client import create_external_job
from cryosparc_jobs.job_settings import all_settings, checked_settings, description
from cryosparc_jobs.particles import wanted_slots
from cryosparc_jobs.publication import INPUT, Publication
from cryosparc_jobs.running import FinishedJob, refuse_results_of_others, result_directory, run_job
from cryosparc_jobs.train_results import find_result

TITLE = "cryodrgn-ext: select"
OURS = {
    "in_parts": "what was learned comes from result= (--result)",
    "o": "the particles return to the project",
    "star_columns": "there is no STAR file",
}
REST = "particles_rest"


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
    trained = read_learned_result(trained_in)
    looked_at = np.ones(trained.particles.n, np.bool_)
    if particles is None and trained.states is not None:
        looked_at = trained.states.label >= 0  # a landscape of some of the particles has no others to give back
    groups = {name: chosen[looked_at[chosen]] for name, chosen in choose_groups(checked, trained).items()}
    for name, chosen in groups.items():
        if len(chosen) == 0:
            raise InputError(
                f"None of the particles of {name.replace('_', ' ')} is among those that the landscape looked at: name "
                'the particles of the project with particles=("J42", "particles") (--particles J42 particles).'
            )
    job = create_external_job(
        cs, project, workspace, title, description(f"Particles chosen by the result in {trained_in}.", checked, OURS)
    )
    job.connect(INPUT, source, slots)
    where = result_directory(job, directory)

    def work(monitor: Monitor) -> tuple[JobResult, tuple[str, ...]]:
        monitor.message(all_settings(checked, OURS))
        monitor.message(f"Latents and states from {trained_in}")
        rows = job.load_input(INPUT, [slot.name for slot in slots])
        publication = Publication(job, rows, monitor)
        rest = left_over(groups, trained.particles.n)
        rest = rest[looked_at[rest]]
        everything = {f"particles_{name}": chosen for name, chosen in groups.items()}
        if len(rest):
            everything[REST] = rest
        for name, chosen in everything.items():
            words = name.removeprefix("particles_").replace("_", " ")
            heading = "Rest: not selected" if name == REST else f"{words[:1].upper()}{words[1:]}"
            publication.add_particles(name, heading, trained.particles.uid[chosen])
            monitor.message(f"{heading}: {len(chosen)} of {trained.particles.n} particles")
        if trained.latents is not None:
            _add_picture(publication, trained, list(everything.values()), list(everything), where)
        publication.commit()
        return JobResult(where, ()), publication.names

    return run_job(job, where, "select", work)


def _add_picture(
    publication: Publication, trained: LearnedResult, groups: list[Any], names: list[str], where: Path
) -> None:
    """Latents by group, in the log, on the card and on every output."""
    if trained.latents is None:
        return
    label = np.zeros(trained.particles.n, np.int32)
    for number, rows in enumerate(groups):
        label[rows] = number
    picture = draw_selection(trained.latents.z, label, where / "pictures")
    key = ", ".join(f"{number}: {name.removeprefix('particles_')}" for number, name in enumerate(names))
    publication.add_plot(picture, f"Particles in latent space, by group ({key})")
    publication.add_tile(picture)
    for name in names:
        publication.add_output_image(name, picture)

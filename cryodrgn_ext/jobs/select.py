"""The job that returns a subset of the user's original particles."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np

from cryodrgn_ext.durable_files import keep_existing, make_output_directory
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.particles import ParticleSet
from cryodrgn_ext.options.select import SelectSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.report.pictures import draw_latents
from cryodrgn_ext.results.chosen_rows import removed_rows
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.learned_result import LearnedResult
from cryodrgn_ext.results.record import read_record, refuse_other_results, write_record
from cryodrgn_ext.results.returned_particles import (
    latent_star_columns,
    returned_name,
    say_conversion,
    wants_columns,
    warn_of_halves,
    write_particles,
)
from cryodrgn_ext.workflow.failure import recorded_failure
from cryodrgn_ext.workflow.job_outputs import picture
from cryodrgn_ext.workflow.job_result import JobResult, ParticleOutput, Picture, Role
from cryodrgn_ext.workflow.selection_groups import TOGETHER, IndexArray, Selection, read_selection


def select(settings: SelectSettings, monitor: Monitor) -> JobResult:
    """Write the particles that meet all of the conditions.

    Parameters
    ----------
    settings : SelectSettings
    monitor : Monitor

    Returns
    -------
    JobResult
        One STAR or .cs file: the user's rows in their order, every original column as it was. Each state or cluster
        that was asked for, and the rest, is an output of its own, without a file.

    Raises
    ------
    InputError
        When the input is no result of a train or abinit job, a condition cannot be met, or nothing is selected.
    """
    selection = read_selection(settings, monitor)
    result, selected = selection.result, selection.rows
    output = output_file(settings, result.particles)
    if result.listed is not None:
        monitor.message(removed_rows(result))
    for layout in (Layout(result.directory), Layout(result.states_directory or result.directory)):
        if output.resolve() in (result.particles.path.resolve(), layout.particles.resolve()):
            raise InputError(f"--o is {output}, which is the input itself: inputs are never overwritten.")
        if output.resolve().is_relative_to(layout.states.resolve()):
            raise InputError(f"--o is {output}, but {layout.states} belongs to another job: write to another folder.")
    if output.parent == settings.o:
        refuse_other_results(settings.o, "select")
    make_output_directory(output.parent)
    # In a directory of this job its own files are made anew, as when RELION continues it.
    continued = output.parent == settings.o and read_record(settings.o) is not None
    record = partial(_record, settings, result, output, len(selected))
    with recorded_failure(settings.o) if output.parent == settings.o else nullcontext():
        record("running")
        columns = {}
        if wants_columns(result.particles, settings.star_columns):
            columns = latent_star_columns(
                None if result.latents is None else result.latents.z,
                None if result.states is None else result.states.label,
            )
        say_conversion(result.particles, output, monitor)
        if not continued:
            outputs = [output, output.with_suffix(".csg")] if output.suffix.lower() == ".cs" else [output]
            for sentence in keep_existing(outputs, settings.overwrite):
                monitor.message(f"Note: {sentence}")
        write_particles(output, result.particles, selected, columns)
        warn_of_halves(result.particles, selected, monitor)
        record("finished")
    groups = selection.groups()
    for name, rows in groups.items() if len(groups) > 1 else ():
        monitor.message(f"{_title(name)}: {len(rows)} of {result.particles.n} particles")
    monitor.message(f"Selected {len(selected)} of {result.particles.n} particles: {output}")
    return _result(selection, output)


def _record(settings: SelectSettings, result: LearnedResult, output: Path, n: int, status: str) -> None:
    """Write job.yaml, where a directory was given."""
    if output.parent == settings.o:
        inputs = result.record()
        write_record(settings.o, "select", status, settings, inputs, {"particles": n})


def output_file(settings: SelectSettings, particles: ParticleSet) -> Path:
    """File to write for ``--o``: itself when it names one (.csg: the .cs beside it), else one in that directory."""
    given = settings.o
    if given.is_dir() or given.suffix.lower() not in (".star", ".cs", ".csg"):
        return given / returned_name(particles, settings.particles_format)
    return given.with_suffix(".cs") if given.suffix.lower() == ".csg" else given


def _result(selection: Selection, output: Path) -> JobResult:
    particles, groups, rest = selection.result.particles, selection.groups(), selection.rest()
    named = {**groups, "rest": rest} if len(rest) else groups
    plots = _plots(selection, named, output.parent)
    outputs = [
        ParticleOutput(
            name=name, title=_title(name), uid=particles.uid[rows],
            path=output if len(groups) == 1 and name in groups else None, picture=plots[0] if plots else None,
            role=Role.RESULT if name in groups else Role.REST,
        ) for name, rows in named.items()
    ]  # fmt: skip
    if len(groups) > 1:
        outputs.insert(0, ParticleOutput(name=TOGETHER, title="Selected", uid=particles.uid[selection.rows],
                                         path=output, role=Role.EXTRA))  # fmt: skip
    return JobResult(output.parent, tuple(outputs), plots=plots, card=plots[0] if plots else None)


def _title(name: str) -> str:
    return name[:1].upper() + name[1:].replace("_", " ")


def _plots(selection: Selection, named: Mapping[str, IndexArray], folder: Path) -> tuple[Picture, ...]:
    latents = selection.result.latents
    if latents is None:
        return ()
    label = np.zeros(latents.n, np.int32)
    for number, rows in enumerate(named.values()):
        label[rows] = number
    key = ", ".join(f"{number}: {name}" for number, name in enumerate(named))
    caption = f"Particles in latent space, by group ({key})"
    return (picture(Layout(folder), "selection", caption, partial(draw_latents, latents.z, label, what="group")),)

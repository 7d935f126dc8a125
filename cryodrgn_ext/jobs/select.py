"""The job that returns a subset of the user's original particles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latents import cluster_latents, principal_components
from cryodrgn_ext.analysis.selection import (
    combine,
    complement,
    latent_columns,
    read_index_file,
    select_labels,
    select_ranges,
)
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.layout import Layout, find_result_directory
from cryodrgn_ext.jobs.options.select import SelectSettings
from cryodrgn_ext.jobs.outputs import JobResult, Output, OutputKind
from cryodrgn_ext.jobs.record import (
    fingerprint_particles,
    is_unchanged,
    read_record,
    refuse_other_results,
    require_record,
    write_record,
)
from cryodrgn_ext.jobs.result_tables import LatentTable, StateTable, read_latent_table, read_state_table
from cryodrgn_ext.jobs.returned_particles import (
    latent_star_columns,
    require_particles,
    returned_name,
    say_conversion,
    wants_columns,
    warn_unbalanced_halves,
    write_particles,
)
from cryodrgn_ext.metadata.particles import ParticleSet, read_particles
from cryodrgn_ext.progress import Monitor

IndexArray = NDArray[np.int64]


@dataclass(frozen=True)
class TrainResult:
    """What select needs of a train job's result directory; either table is missing after a homogeneous one.

    ``only_state`` is the state whose folder or particles were given as the input; None for the whole result.
    ``states_directory`` is where the states are: the result directory, or that of a landscape job on this result.
    """

    directory: Path
    particles: ParticleSet
    latents: LatentTable | None
    states: StateTable | None
    only_state: int | None = None
    states_directory: Path | None = None


def select(settings: SelectSettings, monitor: Monitor) -> JobResult:
    """Write the particles that meet all of the conditions.

    Parameters
    ----------
    settings : SelectSettings
    monitor : Monitor

    Returns
    -------
    JobResult
        One STAR or .cs file: the user's rows in their order, every original column as it was.

    Raises
    ------
    InputError
        When the input is no result of a train job, a condition cannot be met, or nothing is selected.
    """
    result = read_train_result(settings.in_parts)
    selected = choose(settings, result)
    require_particles(selected, "the combination of conditions")
    output = output_file(settings, result.particles)
    for layout in (Layout(result.directory), Layout(result.states_directory or result.directory)):
        if output.resolve() in (result.particles.path.resolve(), layout.particles.resolve()):
            raise InputError(f"--o is {output}, which is the input itself: inputs are never overwritten.")
        if output.resolve().is_relative_to(layout.states.resolve()):
            raise InputError(f"--o is {output}, but {layout.states} belongs to another job: write to another folder.")
    if output.parent == settings.o:
        refuse_other_results(settings.o, "select")
    output.parent.mkdir(parents=True, exist_ok=True)
    columns = {}
    if wants_columns(result.particles, settings.star_columns):
        columns = latent_star_columns(
            None if result.latents is None else result.latents.z, None if result.states is None else result.states.label
        )
    say_conversion(result.particles, output, monitor)
    write_particles(output, result.particles, selected, columns)
    warn_unbalanced_halves(result.particles, selected, monitor)
    if output.parent == settings.o:
        inputs = {
            "in_parts": fingerprint_particles(result.particles.path, result.particles.files),
            "result": str(result.directory),
        }
        write_record(settings.o, "select", "finished", settings, inputs, {"particles": len(selected)})
    monitor.message(f"Selected {len(selected)} of {result.particles.n} particles: {output}")
    return JobResult(output.parent, (Output(output, OutputKind.PARTICLES),))


def output_file(settings: SelectSettings, particles: ParticleSet) -> Path:
    """File to write for ``--o``: itself when it names one (.csg: the .cs beside it), else one in that directory."""
    given = settings.o
    if given.is_dir() or given.suffix not in (".star", ".cs", ".csg"):
        return given / returned_name(particles, settings.particles_format)
    return given.with_suffix(".cs") if given.suffix == ".csg" else given


def read_train_result(given: Path) -> TrainResult:
    """Read a train job's particles (the original file, when it is still there unchanged), latents and states.

    Parameters
    ----------
    given : Path
        The result directory, or any file of particles in it; that of a state stands for the particles of this state.
        That of a landscape job stands for the train job that it looked at, with its clusters in the place of states.

    Raises
    ------
    InputError
        When it is not a finished train job, or its files do not fit together.
    """
    directory = find_result_directory(given)
    found = read_record(directory)
    if found is not None and found["job"] == "landscape":
        return _read_landscape_result(given, directory, found)
    record = require_record(directory, "train")
    layout = Layout(directory)
    if record.get("status") != "finished":
        raise InputError(f"the train job in {directory} is not finished: continue it first.")
    original = record["inputs"]["in_parts"]
    path = Path(original["absolute_path"]) if is_unchanged(original) else layout.particles
    particles = read_particles(path)
    homogeneous = record["settings"].get("zdim") == 0
    latents = None if homogeneous else read_latent_table(layout.latents)
    states = None if homogeneous else read_state_table(layout.states_table)
    for what, n in (
        (layout.latents, None if latents is None else latents.n),
        (layout.states_table, None if states is None else states.n),
    ):
        if n is not None and n != particles.n:
            raise InputError(f"{what} has {n} particles, but {path} has {particles.n}: they do not belong together.")
    if latents is not None and not np.array_equal(latents.uid, particles.uid):
        row = int(np.argmin(latents.uid == particles.uid))
        raise InputError(f"{layout.latents} and {path} name different images from row {row + 1} on.")
    return TrainResult(directory, particles, latents, states, _state_given(given, layout, states))


def _read_landscape_result(given: Path, directory: Path, record: Mapping[str, Any]) -> TrainResult:
    if record.get("status") != "finished":
        raise InputError(f"the landscape job in {directory} is not finished: continue it first.")
    trained = Path(record["inputs"]["result"])
    if not trained.is_dir():
        raise InputError(f"the landscape in {directory} was made of {trained}, which is not there any more.")
    result = read_train_result(trained)
    layout = Layout(directory)
    states = read_state_table(layout.states_table)
    if states.n != result.particles.n:
        raise InputError(
            f"{layout.states_table} has {states.n} particles, but {trained} has {result.particles.n}: it was trained "
            "anew; run landscape again."
        )
    only = _state_given(given, layout, states)
    return replace(result, states=states, only_state=only, states_directory=directory)


def _state_given(given: Path, layout: Layout, states: StateTable | None) -> int | None:
    """Which state's folder ``given`` is, or lies in; None when it means the whole result."""
    for number in range(0 if states is None else len(states.center_index)):
        if given.resolve().is_relative_to(layout.state(number).resolve()):
            return number
    return None


def choose(settings: SelectSettings, result: TrainResult) -> IndexArray:
    """Rows (n,) int64, increasing, that meet all of the conditions.

    Raises
    ------
    InputError
        When no condition is given, or one cannot be met.
    """
    conditions: list[IndexArray] = []
    if settings.state:
        if result.states is None:
            raise InputError(f"{result.directory} has no states: it is a homogeneous reconstruction.")
        conditions.append(select_labels(result.states.label, settings.state, "state"))
    if settings.indices is not None:
        conditions.append(read_index_file(settings.indices, result.particles.n))
    conditions += _latent_conditions(settings, result)
    if not conditions:
        raise InputError("nothing to select by: give --state, --cluster with --clusters, --z_range, --z_norm_max or "
                         "--indices.")  # fmt: skip
    chosen = combine(conditions, "intersection")
    if settings.invert:
        chosen = complement(chosen, result.particles.n)
    if result.only_state is None or result.states is None:
        return chosen
    # RELION offers the particles of every state as an input: a selection from them must not bring others back.
    return combine([chosen, select_labels(result.states.label, [result.only_state], "state")], "intersection")


def _latent_conditions(settings: SelectSettings, result: TrainResult) -> list[IndexArray]:
    if settings.cluster and settings.clusters is None:
        raise InputError("--cluster needs --clusters, the number of clusters to cut the latents into.")
    if settings.clusters is not None and not settings.cluster:
        raise InputError("--clusters needs --cluster, the numbers of the clusters to keep.")
    if not (settings.cluster or settings.z_range or settings.z_norm_max is not None):
        return []
    if result.latents is None:
        raise InputError(f"{result.directory} has no latents: it is a homogeneous reconstruction.")
    z = result.latents.z
    conditions = []
    if settings.clusters is not None:
        label = cluster_latents(z, settings.clusters, seed=settings.seed).label
        conditions.append(select_labels(label, settings.cluster, "cluster"))
    if settings.z_range:
        columns = latent_columns(z, pc=principal_components(z).projections)
        # A bare number is a latent dimension: 1:-0.5:2 means z1:-0.5:2.
        ranges = [f"z{text}" if text[:1].isdigit() else text for text in settings.z_range]
        conditions.append(select_ranges(columns, ranges))
    if settings.z_norm_max is not None:
        conditions.append(np.flatnonzero(np.linalg.norm(z, axis=1) <= settings.z_norm_max))
    return conditions

"""The job that returns a subset of the user's original particles."""

from __future__ import annotations

from pathlib import Path

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
from cryodrgn_ext.jobs.options.select import SelectSettings
from cryodrgn_ext.metadata.particles import ParticleSet
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.learned_result import LearnedResult, read_learned_result
from cryodrgn_ext.results.record import fingerprint_particles, refuse_other_results, write_record
from cryodrgn_ext.results.returned_particles import (
    latent_star_columns,
    require_particles,
    returned_name,
    say_conversion,
    wants_columns,
    warn_unbalanced_halves,
    write_particles,
)
from cryodrgn_ext.workflow.job_result import JobResult, Output, OutputKind

IndexArray = NDArray[np.int64]


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
        When the input is no result of a train or abinit job, a condition cannot be met, or nothing is selected.
    """
    result = read_learned_result(settings.in_parts)
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


def choose(settings: SelectSettings, result: LearnedResult) -> IndexArray:
    """Rows (n,) int64, increasing, that meet all of the conditions.

    Raises
    ------
    InputError
        When no condition is given, or one cannot be met.
    """
    conditions: list[IndexArray] = []
    if settings.state:
        conditions.append(select_labels(result.require_states().label, settings.state, "state"))
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


def _latent_conditions(settings: SelectSettings, result: LearnedResult) -> list[IndexArray]:
    if settings.cluster and settings.clusters is None:
        raise InputError("--cluster needs --clusters, the number of clusters to cut the latents into.")
    if settings.clusters is not None and not settings.cluster:
        raise InputError("--clusters needs --cluster, the numbers of the clusters to keep.")
    if not (settings.cluster or settings.z_range or settings.z_norm_max is not None):
        return []
    z = result.require_latents().z
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

"""report.html and logfile.pdf of a job that ends in states: train, import."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latent_density import DENSITY, LATENT_ERROR, latent_error, log_density
from cryodrgn_ext.analysis.latents import Clustering, umap_embedding
from cryodrgn_ext.analysis.shown_particles import choose_shown
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.report.evidence_tables import evidence_tables
from cryodrgn_ext.report.map_pictures import draw_maps
from cryodrgn_ext.report.map_summaries import consensus_summary, state_summary
from cryodrgn_ext.report.page import ReportContent
from cryodrgn_ext.report.run_facts import RunFacts
from cryodrgn_ext.results.consensus import Consensus
from cryodrgn_ext.results.latent_tables import LatentTable, StateTable
from cryodrgn_ext.results.particle_columns import shown_particles
from cryodrgn_ext.results.states import StateResult

UMAP_FROM_DIMENSIONS = 3
FILES = {
    "particles.star": "all particles, with latents and states",
    "particles.cs": "all particles; particles.csg beside it is for Import Result Group",
    "latents.npz": "latents in the order of the input rows",
    "volumes/": "decoded volumes at centres of the latent cloud",
    "states/": "particles, map, half-maps, mask and FSC of each state",
    "consensus/": "map, half-maps, mask and FSC of all particles",
    "model/": "the trained model, for further volumes",
}


@dataclass(frozen=True)
class StatesReport:
    """Content of the report of a job that ends in states.

    Attributes
    ----------
    particles : ParticleSet
    latents : LatentTable or None
        None for a homogeneous reconstruction.
    table : StateTable
    states : sequence of StateResult
    consensus : Consensus
    loss_history : mapping
        Name of a loss term to its values per epoch; empty when nothing was learned.
    explained_by : sequence
        What states and latents go with, as job.yaml has it.
    populations : sequence
        Of the states, as job.yaml has them.
    """

    particles: ParticleSet
    latents: LatentTable | None
    table: StateTable
    states: Sequence[StateResult]
    consensus: Consensus
    loss_history: Mapping[str, Sequence[float]]
    explained_by: Sequence[Mapping[str, Any]] = ()
    populations: Sequence[Mapping[str, Any]] = ()


def write_states_reports(facts: RunFacts, report: StatesReport) -> None:
    """Write report.html and logfile.pdf."""
    begin, layout = time.monotonic(), facts.layout
    table, consensus, states = report.table, report.consensus, report.states
    rows = np.flatnonzero(table.label >= 0)  # images that cannot be used have no state
    z = None if report.latents is None else report.latents.z[rows]
    clusters = embedding = shown = None
    if z is not None:
        centers = np.searchsorted(rows, table.center_index)
        clusters = Clustering(table.label[rows], centers, z[centers])
        if z.shape[1] >= UMAP_FROM_DIMENSIONS and len(z) >= 4:
            embedding = umap_embedding(z, seed=facts.seed or 0)
        prefer = None if embedding is None else embedding.index
        index = choose_shown(len(z), clusters.label, centers, prefer)
        shown = shown_particles(report.particles, rows[index])
        shown = replace(shown, index=index, columns={**_of_latents(report.latents, rows, index), **shown.columns})
    whole, pictures = draw_maps([layout.state(state.number) / "map.mrc" for state in states], consensus.map)
    facts = replace(facts, seconds={**facts.seconds, "plots and pictures": time.monotonic() - begin})
    content = ReportContent(
        title="Heterogeneity" if z is not None else "Homogeneous reconstruction",
        z=z,
        n_particles=len(table.label),
        box_size=len(consensus.map),
        pixel_size_A=consensus.pixel_size_A,
        loss_history=report.loss_history,
        clusters=clusters,
        embedding=embedding,
        states=[
            state_summary(f"state {state.number:02d}", state, drawn)
            for state, drawn in zip(states, pictures, strict=True)
        ],
        group_name="state",
        consensus=consensus_summary(consensus, len(table.label), whole),
        shown=shown,
        tables=evidence_tables(
            report.explained_by, [state.summary() for state in states], populations=report.populations
        ),
    )
    facts.write(content, _files(facts, z is not None))


def _of_latents(
    latents: LatentTable | None, rows: NDArray[np.int64], index: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """What the explorer shows of latents beside themselves: density of the particles, and standard errors."""
    assert latents is not None
    found = {DENSITY: log_density(latents.z[rows], index)}
    if latents.z_cov is not None:
        found[LATENT_ERROR] = latent_error(latents.z_cov[rows[index]])
    return found


def _files(facts: RunFacts, with_latents: bool) -> dict[str, str]:
    """Files in the result directory; a homogeneous model has no latents."""
    found = facts.existing(FILES)
    if not with_latents:
        found |= {name: "all particles" for name in ("particles.star",) if name in found}
        found |= {"volumes/": "the decoded volume", "model/": "the trained model"}
    return found

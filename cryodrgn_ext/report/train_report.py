"""report.html and logfile.pdf of a train job."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cryodrgn_ext.analysis.latents import Clustering, umap_embedding
from cryodrgn_ext.analysis.shown_particles import choose_shown
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.report.map_pictures import MapPictures, draw_maps
from cryodrgn_ext.report.page import ReportContent, StateSummary
from cryodrgn_ext.report.page_html import write_report_html
from cryodrgn_ext.report.page_pdf import write_logfile_pdf
from cryodrgn_ext.results.consensus import Consensus
from cryodrgn_ext.results.latent_tables import LatentTable, StateTable
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.particle_columns import shown_particles
from cryodrgn_ext.results.record import versions
from cryodrgn_ext.results.states import StateResult
from cryodrgn_ext.settings import Settings, describe, text_of

UMAP_FROM_DIMENSIONS = 3
FILES = {
    "particles.star": "all particles, with latents and states",
    "particles.cs": "all particles; particles.csg beside it is for Import Result Group",
    "latents.npz": "latents in the order of the input rows",
    "volumes/": "decoded volumes at centres of the latent cloud",
    "states/": "particles, map, half-maps, mask and FSC of each state",
    "consensus/": "map, half-maps, mask and FSC of all particles",
    "model/": "the trained model, for further volumes",
    "job.yaml": "settings, versions, seed, inputs",
    "run.log": "everything that the run said",
}


def command_line(job: str, settings: Settings) -> str:
    """Command line that repeats a job: every setting that differs from its default."""
    words = ["cryodrgn-ext", job]
    for field in describe(type(settings)):
        value = getattr(settings, field.name)
        if field.required or value != field.default:
            words += [field.option, text_of(field, value)]
    return shlex.join(words)


@dataclass(frozen=True)
class StatesReport:
    """What a job that ends in states has to show.

    Attributes
    ----------
    job : str
        Its name on the command line.
    settings : Settings
    seed : int
    particles : ParticleSet
    latents : LatentTable or None
        None for a homogeneous reconstruction.
    table : StateTable
    states : sequence of StateResult
    consensus : Consensus
    loss_history : mapping
        Name of a loss term to its values per epoch; empty when nothing was learned.
    messages : sequence of str
        Shown on top.
    seconds : mapping
        Time of each part of the job so far.
    """

    job: str
    settings: Settings
    seed: int
    particles: ParticleSet
    latents: LatentTable | None
    table: StateTable
    states: Sequence[StateResult]
    consensus: Consensus
    loss_history: Mapping[str, Sequence[float]]
    messages: Sequence[str]
    seconds: Mapping[str, float]


def write_reports(layout: Layout, report: StatesReport) -> None:
    """Write report.html and logfile.pdf."""
    begin = time.monotonic()
    table, consensus, states = report.table, report.consensus, report.states
    z = None if report.latents is None else report.latents.z
    clusters = embedding = shown = None
    if z is not None:
        clusters = Clustering(table.label, table.center_index, z[table.center_index])
        if z.shape[1] >= UMAP_FROM_DIMENSIONS and len(z) >= 4:
            embedding = umap_embedding(z, seed=report.seed)
        prefer = None if embedding is None else embedding.index
        shown = shown_particles(report.particles, choose_shown(len(z), table.label, table.center_index, prefer))
    whole, pictures = draw_maps([layout.state(state.number) / "map.mrc" for state in states], consensus.map)
    parts = {**report.seconds, "plots and pictures": time.monotonic() - begin}
    content = ReportContent(
        title="Heterogeneity" if z is not None else "Homogeneous reconstruction",
        command=command_line(report.job, report.settings),
        z=z,
        settings=report.settings.to_mapping(),
        versions=versions(),
        seed=report.seed,
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
        messages=report.messages,
        files=_files(layout, z is not None),
        elapsed_s=sum(parts.values()),
        date=report_date(),
        seconds=parts,
        group_name="state",
        consensus=consensus_summary(consensus, len(table.label), whole),
        shown=shown,
    )
    write_report_html(layout.report, content)
    write_logfile_pdf(layout.logfile, content)


def report_date() -> str:
    """Now, as a report says it."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z")


def state_summary(label: str, state: StateResult, drawn: MapPictures) -> StateSummary:
    """What a report shows of a state."""
    return StateSummary(
        label, state.particles, state.resolution_A, np.array(state.fsc), drawn.slices, state.evidence, drawn.views
    )


def consensus_summary(consensus: Consensus, n_particles: int, drawn: MapPictures) -> StateSummary:
    """What a report shows of all particles together."""
    return StateSummary(
        "consensus", n_particles, consensus.resolution_A, consensus.fsc, drawn.slices, "All particles.", drawn.views
    )


def _files(layout: Layout, with_latents: bool) -> dict[str, str]:
    """What lies in the result directory; a homogeneous model has no latents."""
    found = {name: what for name, what in FILES.items() if (layout.root / name).exists()}
    if not with_latents:
        found |= {name: "all particles" for name in ("particles.star",) if name in found}
        found |= {"volumes/": "the decoded volume", "model/": "the trained model"}
    return found

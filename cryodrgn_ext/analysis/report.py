"""What a report says, free of its form: the content, and the figures that follow from it.

:mod:`report_html` and :mod:`report_pdf` lay the same content out as a web page and as the PDF that RELION shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cryodrgn_ext.analysis import plots
from cryodrgn_ext.analysis.latents import Clustering, Embedding, principal_components

MAPS_PER_FIGURE = 8


@dataclass(frozen=True)
class StateSummary:
    """One line of the table of states.

    Attributes
    ----------
    label : str
        For example "state 03".
    n : int
        Number of particles.
    resolution_A : float or None
        Where the half-map FSC falls below 0.143; None when there are no half-maps.
    fsc : ndarray or None
        (D // 2 + 1,) over shells.
    slices : ndarray or None
        (3, D, D) central slices of the map, see :func:`plots.central_slices`.
    verdict : str
        What the comparison with random subsets says.
    """

    label: str
    n: int
    resolution_A: float | None = None
    fsc: NDArray[np.floating] | None = None
    slices: NDArray[np.floating] | None = None
    verdict: str = ""


@dataclass(frozen=True)
class ReportContent:
    """Everything that a report shows; only ``title``, ``command`` and ``z`` are needed.

    Attributes
    ----------
    title, command : str
        The command is shown exactly, for repetition.
    z : ndarray or None
        (N, q) latents; None for a homogeneous reconstruction.
    settings, versions : mapping
        Name to value; shown as tables.
    seed : int or None
    n_particles : int
    box_size : int
        Of the maps, in voxels.
    pixel_size_A : float
    loss_history : mapping
        Name of a loss term to its values per epoch.
    clusters : Clustering or None
    embedding : Embedding or None
        UMAP.
    colorings : mapping
        Further columns (N,) by which to colour the latents, by name.
    states : sequence of StateSummary
    consensus_fsc : ndarray or None
    consensus_resolution_A : float or None
    truth : mapping
        Figures of agreement with a known truth, by name; empty without one.
    messages : sequence of str
        Warnings and verdicts, shown on top.
    files : mapping
        Output file to what it is.
    elapsed_s : float or None
    further : sequence of ReportFigure
        Figures of a job's own, after those of the states.
    """

    title: str
    command: str
    z: NDArray[np.floating] | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    n_particles: int = 0
    box_size: int = 0
    pixel_size_A: float = 1.0
    loss_history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    clusters: Clustering | None = None
    embedding: Embedding | None = None
    colorings: Mapping[str, NDArray[np.floating]] = field(default_factory=dict)
    states: Sequence[StateSummary] = ()
    consensus_fsc: NDArray[np.floating] | None = None
    consensus_resolution_A: float | None = None
    truth: Mapping[str, float] = field(default_factory=dict)
    messages: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    elapsed_s: float | None = None
    further: Sequence[ReportFigure] = ()


@dataclass(frozen=True)
class ReportFigure:
    """A figure with the section it belongs to and its caption."""

    section: str
    caption: str
    figure: Figure


def overview(content: ReportContent) -> dict[str, str]:
    """The figures that matter most, as words, in the order to show them."""
    facts: dict[str, str] = {}
    if content.n_particles:
        facts["Particles"] = f"{content.n_particles:,}"
    if content.box_size:
        facts["Box"] = f"{content.box_size} px at {content.pixel_size_A:.4g} Å"
    if content.z is not None:
        facts["Latent dimensions"] = str(content.z.shape[1])
    if content.consensus_resolution_A is not None:
        facts["Consensus resolution"] = f"{content.consensus_resolution_A:.2f} Å"
    if content.states:
        facts["States"] = str(len(content.states))
    if content.seed is not None:
        facts["Seed"] = str(content.seed)
    if content.elapsed_s is not None:
        facts["Time"] = (
            f"{content.elapsed_s / 60:.1f} min" if content.elapsed_s >= 100 else f"{content.elapsed_s:.0f} s"
        )
    return facts


def state_rows(content: ReportContent) -> list[tuple[str, str, str, str, str]]:
    """Table of states as words: label, particles, share, resolution, verdict."""
    return [
        (
            state.label,
            f"{state.n:,}",
            f"{100 * state.n / content.n_particles:.1f} %" if content.n_particles else "",
            f"{state.resolution_A:.2f} Å" if state.resolution_A is not None else "-",
            state.verdict,
        )
        for state in content.states
    ]


def report_figures(content: ReportContent) -> list[ReportFigure]:
    """All figures that the content allows, in order."""
    figures: list[ReportFigure] = []
    if content.states:
        figures += _map_figures(content)
    figures += content.further
    curves = {} if content.consensus_fsc is None else {"consensus": content.consensus_fsc}
    curves |= {state.label: state.fsc for state in content.states if state.fsc is not None}
    if curves:
        caption = "FSC between half-maps from original images, within the mask; the dashed line is 0.143."
        figures.append(ReportFigure("Resolution", caption, plots.fsc_curves(curves, content.pixel_size_A)))
    if content.z is not None:
        figures += _latent_figures(content, content.z)
    if any(len(values) for values in content.loss_history.values()):
        caption = "Loss terms, mean over each epoch."
        figures.append(ReportFigure("Training", caption, plots.loss_curves(content.loss_history)))
    return figures


def _map_figures(content: ReportContent) -> list[ReportFigure]:
    drawn = {f"{state.label}\n{state.n:,}": state.slices for state in content.states if state.slices is not None}
    names = list(drawn)
    return [
        ReportFigure(
            "States",
            "Central slices of the maps of the states (number of particles above), one grey scale.",
            plots.map_slices({name: drawn[name] for name in names[start : start + MAPS_PER_FIGURE]}),
        )
        for start in range(0, len(names), MAPS_PER_FIGURE)
    ]


def _latent_figures(content: ReportContent, z: NDArray[np.floating]) -> list[ReportFigure]:
    section = "Latent space"
    components = principal_components(z)
    clusters = content.clusters
    if z.shape[1] == 1:
        figures = [ReportFigure(section, "Distribution of the latent.", plots.latent_histogram(z[:, 0], "z1"))]
    else:
        plane, names = components.projections[:, :2], ("PC 1", "PC 2")
        figures = [ReportFigure(section, "Density of the particles.", plots.latent_density(plane, names))]
        if clusters is not None:
            marked = plots.latent_by_label(plane, clusters.label, names, plane[clusters.center_index])
            figures.append(ReportFigure(section, "Clusters; numbers mark the on-data centres.", marked))
        figures += [
            ReportFigure(section, f"Coloured by {name}.", plots.latent_by_value(plane, values, names, name))
            for name, values in content.colorings.items()
        ]
        shares = plots.explained_variance(components.explained_variance_ratio)
        figures.append(ReportFigure(section, "Share of the latent variance along each principal axis.", shares))
    if content.embedding is not None:
        figures += _umap_figures(content, content.embedding)
    if clusters is not None:
        figures.append(ReportFigure(section, "Particles in each cluster.", plots.group_sizes(clusters.size)))
    return figures


def _umap_figures(content: ReportContent, embedding: Embedding) -> list[ReportFigure]:
    names = ("UMAP 1", "UMAP 2")
    clusters = content.clusters
    if clusters is None:
        return [ReportFigure("Latent space", "UMAP.", plots.latent_density(embedding.xy, names))]
    label = clusters.label[embedding.index]
    row = np.searchsorted(embedding.index, clusters.center_index)
    row = np.minimum(row, len(embedding.index) - 1)
    shown = embedding.index[row] == clusters.center_index  # a centre may be missing from the sample
    centers = embedding.xy[row] if shown.all() else None
    return [ReportFigure("Latent space", "UMAP, clusters.", plots.latent_by_label(embedding.xy, label, names, centers))]

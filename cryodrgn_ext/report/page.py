"""Content of a report, free of its form, and the figures that follow from it.

:mod:`report_html` and :mod:`report_pdf` lay the same content out as a web page and as the PDF that RELION shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latents import Clustering, Embedding, principal_components
from cryodrgn_ext.analysis.shown_particles import ShownParticles
from cryodrgn_ext.report import plots
from cryodrgn_ext.report.charts import Chart, draw, fsc_chart, loss_charts, size_chart, variance_chart

MAPS_PER_FIGURE = 8
CONSENSUS_COLOR = "#6b7480"
COLUMNS_IN_FIGURE = 12


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
    views : ndarray or None
        (3, P, P) pictures of the isosurface, see :func:`isosurface.surface_views`; of all states at one level.
    """

    label: str
    n: int
    resolution_A: float | None = None
    fsc: NDArray[np.floating] | None = None
    slices: NDArray[np.floating] | None = None
    verdict: str = ""
    views: NDArray[np.floating] | None = None


@dataclass(frozen=True)
class ReportContent:
    """Everything that a report shows; only ``title`` is needed.

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
        The whole job, preprocessing included.
    further : sequence of ReportFigure
        Figures of a job's own, after those of the states.
    date : str
        When the job ended.
    seconds : mapping
        Time of each part of the job, by name.
    group_name : str
        What the clusters of the latents are called, in the figures as in the text.
    consensus : StateSummary or None
        All particles; takes the place of ``consensus_fsc`` and ``consensus_resolution_A``.
    shown : ShownParticles or None
        Particles that the page draws one by one, with their columns; a sample of ``z`` when not given.
    tables : sequence of ReportTable
        Tables of a job's own, after that of the states.
    planes : mapping
        Name to a pair of columns that the page offers as axes, before those of the latents; the first is seen first.
    """

    title: str
    command: str = ""
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
    date: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    group_name: str = "cluster"
    consensus: StateSummary | None = None
    shown: ShownParticles | None = None
    tables: Sequence[ReportTable] = ()
    planes: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @cached_property
    def figures(self) -> list[ReportFigure]:
        """All figures that the content allows, drawn once: those of the PDF, and of a page without scripts."""
        return report_figures(self)

    @cached_property
    def charts(self) -> dict[str, list[Chart]]:
        """Curves and bars by section."""
        return content_charts(self)

    @property
    def whole(self) -> StateSummary | None:
        """The consensus with whatever is known of it."""
        if self.consensus is not None or self.consensus_fsc is None:
            return self.consensus
        return StateSummary("consensus", self.n_particles, self.consensus_resolution_A, self.consensus_fsc)


@dataclass(frozen=True)
class ReportFigure:
    """A figure with the section it belongs to and its caption.

    Attributes
    ----------
    section, caption : str
    figure : Figure
    is_live : bool
        Whether the page draws the same by itself, so that the figure is for paper, and for browsers without scripts.
    """

    section: str
    caption: str
    figure: Figure
    is_live: bool = False


@dataclass(frozen=True)
class ReportTable:
    """A table with its title and what it says.

    Attributes
    ----------
    title, caption : str
    head : tuple of str
    rows : sequence of tuple of str
        The first column names the row; the others are numbers.
    """

    title: str
    caption: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def overview(content: ReportContent) -> dict[str, str]:
    """The figures that matter most, as words, in the order to show them."""
    facts: dict[str, str] = {}
    if content.n_particles:
        facts["Particles"] = f"{content.n_particles:,}"
    if content.box_size:
        facts["Box"] = f"{content.box_size} px at {content.pixel_size_A:.4g} Å"
    if content.z is not None:
        facts["Latent dimensions"] = str(content.z.shape[1])
    if content.whole is not None and content.whole.resolution_A is not None:
        facts["Consensus resolution"] = f"{content.whole.resolution_A:.2f} Å"
    if content.states:
        facts["States"] = str(len(content.states))
    if content.seed is not None:
        facts["Seed"] = str(content.seed)
    if content.elapsed_s is not None:
        facts["Time"] = duration(content.elapsed_s)
    return facts


def share(n: int, of: int) -> str:
    """A part of the particles in percent, with a digit more for rare states; empty when nothing is known."""
    if of <= 0:
        return ""
    percent = 100 * n / of
    return f"{percent:.1f} %" if percent >= 1 or n == 0 else f"{percent:.2g} %"


def duration(seconds: float) -> str:
    """A time as people say it: seconds, minutes or hours."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def state_rows(content: ReportContent) -> list[tuple[str, str, str, str, str]]:
    """Table of states as words: label, particles, share, resolution, verdict."""
    return [
        (
            state.label,
            f"{state.n:,}",
            share(state.n, content.n_particles),
            f"{state.resolution_A:.2f} Å" if state.resolution_A is not None else "-",
            state.verdict,
        )
        for state in content.states
    ]


def report_figures(content: ReportContent) -> list[ReportFigure]:
    """Draw all figures that the content allows, in order; see :attr:`ReportContent.figures`."""
    figures: list[ReportFigure] = []
    if content.states:
        figures += _map_figures(content)
    figures += content.further
    if content.z is not None:
        figures += _latent_figures(content, content.z)
    for section, charts in content.charts.items():
        caption = "; ".join(dict.fromkeys(f"{chart.title}: {chart.caption}" for chart in charts))
        figures.append(ReportFigure(section, caption, draw(charts), is_live=True))
    return figures


def content_charts(content: ReportContent) -> dict[str, list[Chart]]:
    """Curves and bars that the content allows, by section, for paper and for the page alike."""
    found: dict[str, list[Chart]] = {}
    labels, colors = [state.label for state in content.states], group_colors(content)
    curves = {} if content.whole is None or content.whole.fsc is None else {"consensus": content.whole.fsc}
    curves |= {state.label: state.fsc for state in content.states if state.fsc is not None}
    if curves:
        shades = {"consensus": CONSENSUS_COLOR, **dict(zip(labels, colors, strict=False))}
        numbers = {label: k for k, label in enumerate(labels)}
        found["Resolution"] = [fsc_chart(curves, content.pixel_size_A, shades, numbers)]
    sizes = content.clusters.size.tolist() if content.clusters is not None else [state.n for state in content.states]
    if len(sizes) > 1:
        names = [labels[k] if k < len(labels) else str(k) for k in range(len(sizes))]
        found["Groups"] = [size_chart(sizes, content.group_name, names, colors)]
    if content.z is not None and content.z.shape[1] > 1:
        found["Variance"] = [variance_chart(principal_components(content.z).explained_variance_ratio)]
    losses = loss_charts(content.loss_history)
    return found | ({"Training": losses} if losses else {})


def group_colors(content: ReportContent) -> list[str]:
    """Colour of each state or cluster, the same in all figures."""
    n = max(len(content.states), content.clusters.n_clusters if content.clusters is not None else 0)
    colors = plots.label_colors(max(n, 1))
    return [to_hex(colors(k)) for k in range(n)]


def _map_figures(content: ReportContent) -> list[ReportFigure]:
    """Surfaces and slices, some maps on each."""
    states, figures = list(content.states), []
    colors = plots.label_colors(len(states))
    names = [f"{state.label}\n{state.n:,}" for state in states]
    views = {k: state.views for k, state in enumerate(states) if state.views is not None}
    slices = {k: state.slices for k, state in enumerate(states) if state.slices is not None}
    for part in _parts(views):
        drawn = plots.map_surfaces({names[k]: (views[k], colors(k)[:3]) for k in part})
        caption = "Isosurfaces of the maps of the states at one level (number of particles above)."
        figures.append(ReportFigure("States", caption, drawn, is_live=True))
    for part in _parts(slices):
        drawn = plots.map_slices({names[k]: slices[k] for k in part})
        caption = "Central slices of the maps of the states (number of particles above), one grey scale."
        figures.append(ReportFigure("States", caption, drawn, is_live=True))
    return figures


def _parts(of: Mapping[int, object]) -> list[list[int]]:
    numbers = list(of)
    return [numbers[start : start + MAPS_PER_FIGURE] for start in range(0, len(numbers), MAPS_PER_FIGURE)]


def _latent_figures(content: ReportContent, z: NDArray[np.floating]) -> list[ReportFigure]:
    components = principal_components(z)
    clusters, groups = content.clusters, content.group_name
    drawn: list[tuple[str, Figure]] = []
    if z.shape[1] == 1:
        drawn.append(("Distribution of the latent.", plots.latent_histogram(z[:, 0], "z 1")))
    else:
        plane, names = components.projections[:, :2], ("PC 1", "PC 2")
        drawn.append(("Density of the particles.", plots.latent_density(plane, names)))
        if clusters is not None:
            marked = plots.latent_by_label(plane, clusters.label, names, plane[clusters.center_index], groups)
            drawn.append((f"Particles by {groups}; numbers mark the on-data centres.", marked))
        drawn += [
            (f"Coloured by {name}.", plots.latent_by_value(plane, values, names, name))
            for name, values in content.colorings.items()
        ]
        if content.shown is not None and content.shown.columns:
            columns = dict(list(content.shown.columns.items())[:COLUMNS_IN_FIGURE])
            drawn.append(("Coloured by columns of the particles.",
                          plots.latent_by_columns(plane[content.shown.index], columns, names)))  # fmt: skip
    if content.embedding is not None:
        drawn.append(_umap_figure(content, content.embedding))
    return [ReportFigure("Latent space", caption, figure, is_live=True) for caption, figure in drawn]


def _umap_figure(content: ReportContent, embedding: Embedding) -> tuple[str, Figure]:
    names = ("UMAP 1", "UMAP 2")
    clusters = content.clusters
    if clusters is None:
        return "UMAP.", plots.latent_density(embedding.xy, names)
    label = clusters.label[embedding.index]
    row = np.searchsorted(embedding.index, clusters.center_index)
    row = np.minimum(row, len(embedding.index) - 1)
    shown = embedding.index[row] == clusters.center_index  # a centre may be missing from the sample
    centers = embedding.xy[row] if shown.all() else None
    drawn = plots.latent_by_label(embedding.xy, label, names, centers, content.group_name)
    return f"UMAP, particles by {content.group_name}.", drawn

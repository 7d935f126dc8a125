"""Figures of a result, as matplotlib figures without a window system.

Each function takes plain arrays and returns a new :class:`matplotlib.figure.Figure`; nothing is shown or saved here.
Point clouds are drawn from a sample above 50,000 points: more cannot be told apart.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cryodrgn_ext.report.png import painted

P = ParamSpec("P")
MAX_POINTS = 50_000
MAX_POINTS_IN_PANEL = 8_000
COLUMNS_PER_ROW = 4
LONGEST_NAME = 32
STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "legend.fontsize": 8.0,
}
INK = "#1f4e79"
#: The colours of Okabe and Ito (2008) but black, then those that stay farthest from all before them for normal and for
#: colour-blind eyes (Machado et al. 2009), neither too pale nor too dark for both themes.
DISTINCT = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
    "#f0e442",
    "#e0b0c0",
    "#e03050",
    "#c0d0a0",
)


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a drawing function in the project's style, whatever the user's matplotlibrc says."""

    @functools.wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return in_style


def new_figure(width_in: float, height_in: float, rows: int = 1, columns: int = 1) -> tuple[Figure, NDArray[Any]]:
    """A figure without a window, and its panels (rows, columns)."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def plain(name: str) -> str:
    """A name from a user's file as it may stand in a figure: not too long, and no mathematics."""
    short = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME // 2]}…{name[-LONGEST_NAME // 2 + 1 :]}"
    return short.replace("$", r"\$")


def label_colors(n: int) -> Colormap:
    """``n`` colours for numbered groups whose neighbours are similar: distinct up to ten, a gradient above."""
    if n <= len(DISTINCT):
        return ListedColormap(DISTINCT[:n])
    return ListedColormap(mpl.colormaps["viridis"](np.linspace(0, 1, n)))


def _sample(n: int) -> NDArray[np.int64]:
    """At most ``MAX_POINTS`` of n points in random order, so that no group lies on top of all others."""
    return np.random.default_rng(0).permutation(n)[:MAX_POINTS]


def _point_size(n: int) -> float:
    return float(np.clip(20_000 / max(n, 1), 0.3, 12.0))


@styled
def latent_density(xy: NDArray[np.floating], names: tuple[str, str]) -> Figure:
    """Density of all particles (N, 2) in a plane of the latent space."""
    figure, axes = new_figure(4.4, 3.8)
    panel = axes[0, 0]
    drawn = panel.hexbin(xy[:, 0], xy[:, 1], gridsize=60, bins="log", mincnt=1, cmap="viridis", linewidths=0.1)
    figure.colorbar(drawn, ax=panel, label="particles")
    panel.set(xlabel=names[0], ylabel=names[1])
    return figure


@styled
def latent_by_label(
    xy: NDArray[np.floating],
    label: NDArray[np.integer],
    names: tuple[str, str],
    centers: NDArray[np.floating] | None = None,
    what: str = "cluster",
) -> Figure:
    """Particles (N, 2) coloured by ``label`` (N,) from 0 on, with the numbers of the groups at ``centers`` (K, 2)."""
    n_groups = int(label.max()) + 1
    figure, axes = new_figure(4.8, 3.8)
    panel = axes[0, 0]
    order = _sample(len(xy))
    drawn = panel.scatter(
        xy[order, 0], xy[order, 1], c=label[order], s=_point_size(len(order)), linewidths=0, rasterized=True,
        cmap=label_colors(n_groups), norm=BoundaryNorm(np.arange(n_groups + 1) - 0.5, n_groups),
    )  # fmt: skip
    figure.colorbar(drawn, ax=panel, label=what, ticks=np.unique(np.linspace(0, n_groups - 1, 10).astype(int)))
    for number, center in enumerate(() if centers is None else centers):
        box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "black", "linewidth": 0.6}
        panel.annotate(str(number), center, ha="center", va="center", fontsize=8, color="black", bbox=box, zorder=5)
    panel.set(xlabel=names[0], ylabel=names[1])
    return figure


@styled
def latent_by_value(
    xy: NDArray[np.floating], values: NDArray[np.floating], names: tuple[str, str], what: str
) -> Figure:
    """Particles (N, 2) coloured by any column (N,): defocus, a true angle."""
    figure, axes = new_figure(4.8, 3.8)
    panel = axes[0, 0]
    order = _sample(len(xy))
    drawn = panel.scatter(
        xy[order, 0], xy[order, 1], c=values[order], s=_point_size(len(order)), linewidths=0, rasterized=True,
        cmap="viridis",
    )  # fmt: skip
    figure.colorbar(drawn, ax=panel, label=plain(what))
    panel.set(xlabel=names[0], ylabel=names[1])
    return figure


@styled
def latent_by_columns(
    xy: NDArray[np.floating], columns: Mapping[str, NDArray[np.floating]], names: tuple[str, str]
) -> Figure:
    """Particles (N, 2) in small panels, each coloured by one column (N,), its colours over the middle 98 %."""
    across = min(COLUMNS_PER_ROW, len(columns))
    down = -(-len(columns) // across)
    height = 2.2 * down + 0.6
    # Fixed places: to lay out so many panels with their scales would take seconds.
    figure = Figure(figsize=(2.7 * across, height))
    FigureCanvasAgg(figure)
    places = {"left": 0.05, "right": 0.96, "bottom": 0.06, "top": 1 - 0.6 / height, "wspace": 0.25, "hspace": 0.2}
    axes = figure.subplots(down, across, squeeze=False, gridspec_kw=places)
    order = _sample(len(xy))[:MAX_POINTS_IN_PANEL]
    for panel, (name, values) in zip(axes.flat, columns.items(), strict=False):
        known = values[np.isfinite(values)]
        low, high = np.percentile(known, (1, 99)) if len(known) else (0.0, 1.0)
        drawn = panel.scatter(
            xy[order, 0], xy[order, 1], c=values[order], s=_point_size(len(order)) / 2, linewidths=0, rasterized=True,
            cmap="viridis", vmin=low, vmax=max(high, low + 1e-9),
        )  # fmt: skip
        figure.colorbar(drawn, ax=panel)
        panel.set_title(plain(name), fontsize=8)
        panel.set(xticks=[], yticks=[])
    for panel in axes.flat[len(columns) :]:
        panel.set_visible(False)
    axes[-1, 0].set(xlabel=names[0], ylabel=names[1])
    return figure


@styled
def latent_histogram(values: NDArray[np.floating], name: str) -> Figure:
    """Distribution of a one-dimensional latent (N,)."""
    figure, axes = new_figure(4.4, 2.8)
    axes[0, 0].hist(values, bins=60, color=INK)
    axes[0, 0].set(xlabel=name, ylabel="particles")
    return figure


def central_slices(volume: NDArray[np.floating]) -> NDArray[np.float32]:
    """(3, D, D) slices of a map (D, D, D) through voxel D // 2, normal to z, y and x."""
    middle = len(volume) // 2
    return np.stack([volume[middle], volume[:, middle], volume[:, :, middle]]).astype(np.float32)


@styled
def map_slices(slices: Mapping[str, NDArray[np.floating]]) -> Figure:
    """Central slices (3, D, D) of several maps, one map per column, on a common grey scale."""
    figure, axes = new_figure(1.25 * max(3, len(slices)) + 0.3, 4.1, 3, len(slices))
    lowest = float(min(np.percentile(s, 1) for s in slices.values()))
    highest = float(max(np.percentile(s, 99.8) for s in slices.values()))
    for column, (name, planes) in enumerate(slices.items()):
        for row, normal in enumerate(("z", "y", "x")):
            panel = axes[row, column]
            panel.imshow(planes[row], cmap="gray", origin="lower", vmin=lowest, vmax=highest)
            panel.set(xticks=[], yticks=[])
            for spine in panel.spines.values():
                spine.set_visible(False)
            if column == 0:
                panel.set_ylabel(f"normal to {normal}")
        axes[0, column].set_title("\n".join(map(plain, name.split("\n"))), fontsize=8)
    return figure


@styled
def map_surfaces(views: Mapping[str, tuple[NDArray[np.floating], Sequence[float]]]) -> Figure:
    """Isosurfaces of several maps, one map per column: pictures (3, P, P) of lightness, and their colours."""
    figure, axes = new_figure(1.25 * max(3, len(views)) + 0.3, 4.1, 3, len(views))
    for column, (name, (pictures, color)) in enumerate(views.items()):
        for row, along in enumerate(("z", "y", "x")):
            panel = axes[row, column]
            panel.imshow(painted(pictures[row], color))
            panel.set(xticks=[], yticks=[])
            for spine in panel.spines.values():
                spine.set_visible(False)
            if column == 0:
                panel.set_ylabel(f"along {along}")
        axes[0, column].set_title("\n".join(map(plain, name.split("\n"))), fontsize=8)
    return figure

"""Figures of landscapes and trajectories, as matplotlib figures without a window system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.cluster.hierarchy import dendrogram

from cryodrgn_ext.analysis.surfaces import Surface
from cryodrgn_ext.report.plots import INK, label_colors, new_figure, styled

LARGEST_ENERGY_KT = 8.0
NUMBERED_FRAMES = 12
LARGEST_DOT = 120.0


@styled
def path_in_plane(xy: NDArray[np.floating], path: NDArray[np.floating], names: tuple[str, str]) -> Figure:
    """A path (P, 2) over the density of particles (N, 2), some of its points numbered."""
    figure, axes = new_figure(4.8, 3.9)
    panel = axes[0, 0]
    panel.hexbin(xy[:, 0], xy[:, 1], gridsize=60, bins="log", mincnt=1, cmap="Greys", linewidths=0.1)
    panel.plot(path[:, 0], path[:, 1], color=INK, marker="o", markersize=3, linewidth=1.2)
    for number in np.unique(np.linspace(0, len(path) - 1, min(NUMBERED_FRAMES, len(path))).round().astype(int)):
        panel.annotate(str(number), path[number], xytext=(3, 3), textcoords="offset points", fontsize=7, color=INK)
    panel.set(xlabel=names[0], ylabel=names[1])
    return figure


@styled
def sketch_by_state(
    xy: NDArray[np.floating],
    label: NDArray[np.integer],
    size: NDArray[np.integer],
    medoid: NDArray[np.integer],
    names: tuple[str, str],
) -> Figure:
    """Sketched volumes (K, 2) coloured by state, their area by the number of particles (K,); on-data ones marked."""
    n_states = int(label.max()) + 1
    figure, axes = new_figure(4.8, 3.9)
    panel = axes[0, 0]
    area = LARGEST_DOT * size / max(int(size.max()), 1)
    panel.scatter(xy[:, 0], xy[:, 1], s=np.maximum(area, 3), c=label_colors(n_states)(label), linewidths=0, alpha=0.8)
    for number, volume in enumerate(medoid):
        box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "black", "linewidth": 0.6}
        panel.annotate(str(number), xy[volume], ha="center", va="center", fontsize=8, bbox=box, zorder=5)
    panel.set(xlabel=names[0], ylabel=names[1])
    return figure


@styled
def state_counts(n_volumes: NDArray[np.integer], n_particles: NDArray[np.integer]) -> Figure:
    """Volumes and particles of each state, on logarithmic axes: rare ones must be seen."""
    figure, axes = new_figure(float(np.clip(0.5 * len(n_volumes) + 2, 4.5, 9)), 2.6, 1, 2)
    numbers = np.arange(len(n_volumes))
    for panel, counts, what in zip(axes[0], (n_volumes, n_particles), ("volumes", "particles"), strict=True):
        panel.bar(numbers, counts, color=label_colors(len(counts))(numbers))
        panel.set(xlabel="state", ylabel=what, yscale="log", ylim=(0.5, None))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


@styled
def volume_dendrogram(tree: NDArray[np.floating], n_states: int) -> Figure:
    """The upper part of the tree of volumes; the numbers in brackets are of volumes."""
    figure, axes = new_figure(6.0, 2.8)
    dendrogram(
        tree, p=max(30, 2 * n_states), truncate_mode="lastp", ax=axes[0, 0], color_threshold=0,
        above_threshold_color=INK, leaf_font_size=6, leaf_rotation=90,
    )  # fmt: skip
    axes[0, 0].set(ylabel="distance")
    return figure


@styled
def density_and_energy(surface: Surface, names: Sequence[str]) -> Figure:
    """Density, apparent free energy and its standard deviation, with stable maxima marked; or curves over one axis."""
    if len(surface.axes) == 1:
        return _curve(surface, names[0])
    figure, axes = new_figure(10.2, 3.2, 1, 3)
    extent = tuple(float(v) for axis in surface.axes for v in (axis[0], axis[-1]))
    energy = np.where(np.isfinite(surface.free_energy_kT), surface.free_energy_kT, np.nan)
    panels = (
        (surface.density, "particles per unit area", "viridis", None),
        (energy, "apparent free energy (kT)", "magma", LARGEST_ENERGY_KT),
        (surface.free_energy_sd_kT, "its standard deviation (kT)", "cividis", 1.0),
    )
    for panel, (values, title, colors, most) in zip(axes[0], panels, strict=True):
        drawn = panel.imshow(values.T, origin="lower", extent=extent, aspect="auto", cmap=colors, vmin=0, vmax=most)
        figure.colorbar(drawn, ax=panel)
        panel.set(title=title, xlabel=names[0], ylabel=names[1])
    for maximum in surface.maxima:
        if maximum.is_stable:
            axes[0, 1].plot(*maximum.position, marker="+", color="white", markersize=8)
    return figure


def _curve(surface: Surface, name: str) -> Figure:
    figure, axes = new_figure(7.2, 2.8, 1, 2)
    at = surface.axes[0]
    energy = np.where(np.isfinite(surface.free_energy_kT), surface.free_energy_kT, np.nan)
    curves = (
        (surface.density, surface.density_sd, "particles per unit length"),
        (energy, surface.free_energy_sd_kT, "apparent free energy (kT)"),
    )
    for panel, (values, deviation, what) in zip(axes[0], curves, strict=True):
        panel.plot(at, values, color=INK)
        panel.fill_between(at, values - deviation, values + deviation, color=INK, alpha=0.25, linewidth=0)
        panel.set(xlabel=name, ylabel=what)
    return figure


@styled
def layouts(points: Mapping[str, NDArray[np.floating]], label: NDArray[np.integer]) -> Figure:
    """Sketched volumes in several planes side by side (MDS, UMAP), coloured by state."""
    figure, axes = new_figure(3.6 * len(points), 3.2, 1, len(points))
    colors = label_colors(int(label.max()) + 1)
    for panel, (name, xy) in zip(axes[0], points.items(), strict=True):
        panel.scatter(xy[:, 0], xy[:, 1], s=8, c=colors(label), linewidths=0)
        panel.set(title=name, xticks=[], yticks=[])
    return figure


@styled
def learning_curves(train: Sequence[float], held_out: Sequence[float]) -> Figure:
    """Loss of the map to volume components, of the volumes that it learns from and of those held out."""
    figure, axes = new_figure(4.2, 2.8)
    panel = axes[0, 0]
    for name, values, line in (("learned from", train, "--"), ("held out", held_out, "-")):
        panel.plot(np.arange(1, len(values) + 1), values, line, color=INK, label=name)
    panel.set(xlabel="epoch", ylabel="share of the variance", yscale="log")
    panel.legend()
    return figure

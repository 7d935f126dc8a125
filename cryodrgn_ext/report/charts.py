"""Curves and bars, declared once and drawn alike on paper, in the page of a report, and in the explorer.

A :class:`Chart` says what is drawn, in numbers and words. :func:`draw` makes the figure of logfile.pdf; the script
``page_assets/charts.js`` draws :meth:`Chart.plain` in both pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from cryodrgn_ext.report.plots import INK, label_colors, new_figure, plain, styled

FSC_THRESHOLD = 0.143
FSC_CAPTION = "Between half-maps from original images, within the mask; the dashed line is 0.143."
MOST_IN_LEGEND = 12


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes
    ----------
    label : str
    x, y : tuple of float
        NaN where nothing is known.
    color : str
    state : int
        Number of the state that it is of; -1 for none.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    color: str = INK
    state: int = -1


@dataclass(frozen=True)
class Bar:
    """A bar at a whole number.

    Attributes
    ----------
    at : int
    value : float
    label : str
        What it says.
    color : str
    state : int
        Number of the state that it is of; -1 for none.
    """

    at: int
    value: float
    label: str
    color: str = INK
    state: int = -1


@dataclass(frozen=True)
class Chart:
    """Lines or bars, with axes.

    Attributes
    ----------
    name : str
        Kind of the chart.
    title, caption, x_name, y_name : str
        With units.
    series : tuple of Series
    bars : tuple of Bar
    dashed : float or None
        Height of a dashed line.
    x_is : str
        "number", "whole", or "frequency", of which the resolution in Å is written.
    """

    name: str
    title: str
    caption: str
    x_name: str
    y_name: str
    series: tuple[Series, ...] = ()
    bars: tuple[Bar, ...] = ()
    dashed: float | None = None
    x_is: str = "number"

    def plain(self) -> dict[str, Any]:
        """For the script: numbers of six digits, null where nothing is known."""
        series = [
            {"label": one.label, "x": _numbers(one.x), "y": _numbers(one.y), "color": one.color, "state": one.state}
            for one in self.series
        ]
        return {
            "name": self.name, "title": self.title, "caption": self.caption, "xname": self.x_name,
            "yname": self.y_name, "series": series, "dashed": self.dashed, "xis": self.x_is,
            "bars": [vars(bar) | {"value": _numbers([bar.value])[0]} for bar in self.bars],
        }  # fmt: skip


def _numbers(values: Sequence[float]) -> list[float | None]:
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]


def fsc_chart(
    curves: Mapping[str, NDArray[np.floating]],
    pixel_size_A: float,
    colors: Mapping[str, str],
    states: Mapping[str, int] | None = None,
    caption: str = FSC_CAPTION,
) -> Chart:
    """FSC curves by name, each (D // 2 + 1,) over shells 0..D/2, with the line at 0.143.

    ``states`` has the number of the state of those curves that are of one.
    """
    series = []
    for name, curve in curves.items():
        frequency = np.arange(len(curve)) / (2 * (len(curve) - 1) * pixel_size_A)
        state = (states or {}).get(name, -1)
        series.append(Series(name, tuple(frequency.tolist()), tuple(map(float, curve)), colors.get(name, INK), state))
    return Chart(
        "fsc", "Fourier shell correlation", caption, "resolution (Å)", "FSC", tuple(series), dashed=FSC_THRESHOLD,
        x_is="frequency",
    )  # fmt: skip


def size_chart(size: Sequence[int], what: str, labels: Sequence[str], colors: Sequence[str]) -> Chart:
    """Number of particles in each group."""
    bars = tuple(Bar(k, float(n), f"{labels[k]}: {n:,} particles", colors[k], state=k) for k, n in enumerate(size))
    caption = "Select a bar to see its maps; hold Shift to compare several."
    return Chart("sizes", f"Particles in each {what}", caption, what, "particles", bars=bars, x_is="whole")


def variance_chart(share: Sequence[float] | NDArray[np.floating], of: str = "latents") -> Chart:
    """Share of the variance along each principal axis."""
    bars = tuple(Bar(k + 1, float(value), f"PC {k + 1}: {100 * value:.1f} %") for k, value in enumerate(share))
    caption = f"Share of the variance of the {of} along each principal axis."
    return Chart(
        "variance", "Explained variance", caption, "principal component", "share of the variance", bars=bars,
        x_is="whole",
    )  # fmt: skip


def loss_charts(history: Mapping[str, Sequence[float]]) -> list[Chart]:
    """One chart for each loss term, over the epochs."""
    return [
        Chart(
            "loss", f"Training: {name}", "Mean over each epoch.", "epoch", name,
            (Series(name, tuple(range(1, len(values) + 1)), tuple(map(float, values))),), x_is="whole",
        )
        for name, values in history.items() if np.isfinite(np.asarray(values, float)).any()
    ]  # fmt: skip


@styled
def draw(charts: Sequence[Chart]) -> Figure:
    """Charts side by side, on paper."""
    count = max(1, len(charts))
    widest = max((len(chart.bars) for chart in charts), default=0)
    legend = any(len(chart.series) > 1 for chart in charts)
    one = 5.4 if legend else float(np.clip(0.25 * widest + 2, 3.4, 9))
    figure, axes = new_figure(one * count, 3.4 if legend else 2.6, 1, count)
    for panel, chart in zip(axes[0], charts, strict=False):
        _draw(panel, chart)
        if count > 1:
            panel.set_title(plain(chart.title))
    return figure


def _draw(panel: Axes, chart: Chart) -> None:
    for one in chart.series:
        marker = "o" if len(one.x) < 2 or chart.x_is == "whole" else None
        width = 1.8 if one.state < 0 and len(chart.series) > 1 else 1.1
        panel.plot(one.x, one.y, label=plain(one.label), color=one.color, linewidth=width, marker=marker, markersize=3)
    if chart.bars:
        panel.bar([bar.at for bar in chart.bars], [bar.value for bar in chart.bars],
                  color=[bar.color for bar in chart.bars])  # fmt: skip
        panel.set_ylim(0, None)
    if chart.dashed is not None:
        panel.axhline(chart.dashed, color="#888888", linewidth=0.8, linestyle="--")
    panel.set(xlabel=plain(chart.x_name), ylabel=plain(chart.y_name))
    if chart.x_is == "whole":
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    if chart.x_is == "frequency":
        panel.axhline(0, color="#cccccc", linewidth=0.6)
        panel.set(ylim=(-0.1, 1.03), xlim=(0, None))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda f, _: "∞" if f <= 0 else f"{1 / f:.3g}"))
    if 1 < len(chart.series) <= MOST_IN_LEGEND:
        panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def fsc_curves(curves: Mapping[str, NDArray[np.floating]], pixel_size_A: float) -> Figure:
    """FSC curves against resolution on paper, the first of several in black."""
    several = len(curves) > 1
    palette = label_colors(max(1, len(curves) - 1))
    colors = {name: to_hex(palette(k - several)) if k or not several else "#000000" for k, name in enumerate(curves)}
    return draw([fsc_chart(curves, pixel_size_A, colors)])

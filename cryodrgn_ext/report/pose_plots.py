"""Figures of poses: where the views are, and how random initialisations compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cryodrgn_ext.report.plots import INK, new_figure, styled

ROT_BINS, TILT_BINS = 48, 24


@styled
def view_distribution(rotation: NDArray[np.floating]) -> Figure:
    """Density of the directions of view over the sphere, relative to an even distribution.

    Parameters
    ----------
    rotation : ndarray
        (N, 3, 3) model to image coordinates. The direction of view is the third row: RELION's (rot, tilt).
    """
    view = np.asarray(rotation, np.float64)[:, 2]
    rot = np.degrees(np.arctan2(view[:, 1], view[:, 0]))
    # Equal steps of the cosine of tilt are equal areas.
    edges = np.linspace(-180, 180, ROT_BINS + 1), np.linspace(-1, 1, TILT_BINS + 1)
    count, _, _ = np.histogram2d(rot, np.clip(view[:, 2], -1, 1), bins=edges)
    even = len(view) / count.size
    figure, axes = new_figure(6.4, 3.4)
    panel = axes[0, 0]
    drawn = panel.pcolormesh(*edges, count.T / max(even, 1e-30), cmap="viridis", vmin=0)
    figure.colorbar(drawn, ax=panel, label="views, relative to even")
    tilts = np.array([0, 30, 60, 90, 120, 150, 180])
    panel.set(xlabel="rot (degrees)", ylabel="tilt (degrees, equal areas)", xticks=np.arange(-180, 181, 60))
    panel.set_yticks(np.cos(np.radians(tilts)), [str(tilt) for tilt in tilts])
    panel.invert_yaxis()
    return figure


@styled
def initialisation_likelihoods(log_likelihood: Sequence[float]) -> Figure:
    """Log-likelihood per image of each random initialisation; the best one dark."""
    values = np.asarray(log_likelihood, float)
    figure, axes = new_figure(float(np.clip(0.35 * len(values) + 2.2, 3.4, 9)), 2.6)
    panel = axes[0, 0]
    colors = [INK if k == int(np.nanargmax(values)) else "#9bb4cc" for k in range(len(values))]
    panel.scatter(np.arange(1, len(values) + 1), values, c=colors, s=36)
    panel.set(xlabel="random initialisation", ylabel="log-likelihood per image")
    panel.margins(x=0.1, y=0.2)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


@styled
def pose_confidence(log_likelihood: NDArray[np.floating]) -> Figure:
    """Histogram of the images' log-likelihoods at their poses: a second hump on the left is often junk."""
    figure, axes = new_figure(4.4, 2.8)
    panel = axes[0, 0]
    low, high = np.percentile(log_likelihood, [0.1, 99.9])
    panel.hist(np.clip(log_likelihood, low, high), bins=60, color=INK)
    panel.set(xlabel="log-likelihood of an image above no signal (nats)", ylabel="particles")
    return figure

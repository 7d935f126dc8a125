"""Guinier plots: how the amplitudes of a map fall towards high resolution, and the line that gives the B-factor."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from cryodrgn_ext.fourier.sharpening import GuinierFit
from cryodrgn_ext.report.plots import label_colors, new_figure, plain, styled

CAPTION = (
    "Guinier plot of the average of the half-maps, weighted by their FSC, before sharpening: the slope of the dashed "
    "line, fitted from 10 Å to the resolution, is the B-factor that sharpened.mrc is freed of unless --b_factor says."
)


@styled
def guinier_plot(fits: Mapping[str, GuinierFit]) -> Figure:
    """Draw ln(mean |F|) over 1/d^2 for each map by name, and the fitted lines."""
    figure, axes = new_figure(5.4, 3.4)
    panel = axes[0, 0]
    colors = label_colors(max(1, len(fits)))
    for number, (name, fit) in enumerate(fits.items()):
        line = fit.inverse_square_A[fit.fitted]
        # Beyond the resolution the weights vanish, and the logarithm with them.
        shown = fit.inverse_square_A <= line.max() * 1.1
        panel.plot(fit.inverse_square_A[shown], fit.log_amplitude[shown], color=colors(number), linewidth=1.1,
                   label=f"{plain(name)}: B = {fit.b_factor_A2:.0f} Å²")  # fmt: skip
        ends = np.array([line.min(), line.max()])
        panel.plot(
            ends, fit.intercept - 0.25 * fit.b_factor_A2 * ends, color=colors(number), linewidth=1.1, linestyle="--"
        )
    panel.set(xlabel="1/d² (1/Å²)", ylabel="ln mean amplitude")
    panel.legend(loc="upper right")
    return figure

"""report.html and logfile.pdf of a comparison of replicate runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latents import principal_components
from cryodrgn_ext.analysis.replicates import RunComparison
from cryodrgn_ext.report.page import ReportContent, ReportFigure
from cryodrgn_ext.report.plots import latent_by_value, new_figure, styled
from cryodrgn_ext.report.run_facts import RunFacts

FILES = {
    "particles.star": "the common particles, with the state of the first run and the number of runs that agree on it",
    "states/": "particles of each state on which all runs agree, numbered as in the first run",
    "compare.npz": "uid, states of all runs in the numbers of the first (label), runs that agree (votes), all figures",
}
CAPTIONS = {
    "adjusted_rand": "Adjusted Rand index of the states: 1 for the same partition, about 0 for unrelated ones.",
    "percentage": "Particles in matching states, in percent; the matching is the best one to one.",
    "linear": "Share of the variance of the latents of the run of the column that is linear in those of the row.",
    "neighbors": "The same for any smooth relation, by nearest neighbours of particles left out.",
}


def write_compare_reports(
    facts: RunFacts,
    names: Sequence[str],
    found: RunComparison,
    z: NDArray[np.floating],
) -> None:
    """Write report.html and logfile.pdf.

    Parameters
    ----------
    facts : RunFacts
    names : sequence of str
        Of the runs.
    found : RunComparison
    z : ndarray
        (N, q) latents of the common particles in the first run.
    """
    figures = [
        ReportFigure("Agreement of states" if name in ("adjusted_rand", "percentage") else "Agreement of latents",
                     caption, pairwise_table(getattr(found, name), names))
        for name, caption in CAPTIONS.items()
    ]  # fmt: skip
    if z.shape[1] > 1:
        xy = principal_components(z).projections[:, :2]
        drawn = latent_by_value(xy, found.votes.astype(float), ("PC 1", "PC 2"), "runs that agree")
        figures.append(ReportFigure("Particles", "Latents of the first run, by the runs that agree.", drawn))
    content = ReportContent(
        title="Comparison of runs",
        n_particles=len(z),
        further=figures,
    )
    facts.write(content, FILES)


@styled
def pairwise_table(values: NDArray[np.floating], names: Sequence[str]) -> Figure:
    """A square table (R, R) of figures with a colour each; R runs are numbered, and named below."""
    count = len(values)
    size = float(np.clip(0.7 * count + 1.8, 3.0, 9.0))
    figure, axes = new_figure(size + 0.6, size)
    panel = axes[0, 0]
    panel.imshow(values, cmap="Blues", vmin=0, vmax=max(1.0, float(values.max())))
    for (row, column), value in np.ndenumerate(values):
        dark = value > 0.6 * max(1.0, float(values.max()))
        panel.text(
            column, row, f"{value:.3g}", ha="center", va="center", color="white" if dark else "black", fontsize=8
        )
    panel.set_xticks(range(count), [str(number + 1) for number in range(count)])
    panel.set_yticks(range(count), [f"{number + 1}: {_short(name)}" for number, name in enumerate(names)])
    return figure


def _short(name: str, longest: int = 24) -> str:
    return name if len(name) <= longest else "..." + name[3 - longest :]

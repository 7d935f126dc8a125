"""report.html and logfile.pdf of a consensus job."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.fourier.fsc import resolution_A
from cryodrgn_ext.fourier.sharpening import GuinierFit
from cryodrgn_ext.report.charts import fsc_curves
from cryodrgn_ext.report.guinier_plot import CAPTION, guinier_plot
from cryodrgn_ext.report.map_pictures import draw_maps
from cryodrgn_ext.report.page import ReportContent, ReportFigure, StateSummary
from cryodrgn_ext.report.run_facts import RunFacts
from cryodrgn_ext.results.consensus import Consensus
from cryodrgn_ext.results.fsc_tables import CORRECTED, MASKED, UNMASKED

FILES = {
    "consensus/map.mrc": "all particles, filtered by the FSC",
    "consensus/half1.mrc, half2.mrc": "unfiltered half-maps",
    "consensus/sharpened.mrc": "their average, weighted by the FSC, sharpened, cut at the resolution",
    "consensus/mask.mrc": "solvent mask",
    "consensus/fsc.star": "FSC corrected for the mask, unmasked and masked, as RELION writes it",
}
WORDS = {CORRECTED: "corrected for the mask", UNMASKED: "unmasked", MASKED: "masked"}


def write_consensus_reports(
    facts: RunFacts,
    found: Consensus,
    curves: Mapping[str, NDArray[np.float64]],
    fit: GuinierFit | None,
    n_particles: int,
) -> None:
    """Write report.html and logfile.pdf.

    Parameters
    ----------
    facts : RunFacts
    found : Consensus
    curves : mapping
        FSC curves (D // 2 + 1,) by RELION's label.
    fit : GuinierFit or None
    n_particles : int
    """
    curve = curves[CORRECTED]
    drawn, _ = draw_maps([], found.map)
    named = {word: curves[label] for label, word in WORDS.items()}
    figures = [ReportFigure("Resolution", "FSC between half-maps; the dashed line is 0.143.",
                            fsc_curves(named, found.pixel_size_A))]  # fmt: skip
    if fit is not None:
        figures.append(ReportFigure("Sharpening", CAPTION, guinier_plot({"consensus": fit})))
    resolution = resolution_A(curve, found.pixel_size_A, len(found.map))
    content = ReportContent(
        title="Consensus",
        n_particles=n_particles,
        box_size=len(found.map),
        pixel_size_A=found.pixel_size_A,
        further=figures,
        consensus=StateSummary(
            "consensus", n_particles, resolution, curve, drawn.slices, "All particles.", drawn.views
        ),
    )
    facts.write(content, FILES)

"""report.html and logfile.pdf of a consensus job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.fourier.fsc import resolution_A
from cryodrgn_ext.fourier.sharpening import GuinierFit
from cryodrgn_ext.report.guinier_plot import CAPTION, guinier_plot
from cryodrgn_ext.report.map_pictures import draw_maps
from cryodrgn_ext.report.page import ReportContent, ReportFigure, StateSummary
from cryodrgn_ext.report.page_html import write_report_html
from cryodrgn_ext.report.page_pdf import write_logfile_pdf
from cryodrgn_ext.report.plots import fsc_curves
from cryodrgn_ext.report.train_report import command_line, report_date
from cryodrgn_ext.results.consensus import Consensus
from cryodrgn_ext.results.fsc_tables import CORRECTED, MASKED, UNMASKED
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.record import versions
from cryodrgn_ext.settings import Settings

FILES = {
    "consensus/map.mrc": "all particles, filtered by the FSC",
    "consensus/half1.mrc, half2.mrc": "unfiltered half-maps",
    "consensus/sharpened.mrc": "their average, weighted by the FSC, sharpened, cut at the resolution",
    "consensus/mask.mrc": "solvent mask",
    "consensus/fsc.star": "FSC corrected for the mask, unmasked and masked, as RELION writes it",
    "job.yaml": "settings, versions, inputs, results",
    "run.log": "everything that the run said",
}
WORDS = {CORRECTED: "corrected for the mask", UNMASKED: "unmasked", MASKED: "masked"}


def write_consensus_reports(
    layout: Layout,
    settings: Settings,
    found: Consensus,
    curves: Mapping[str, NDArray[np.float64]],
    fit: GuinierFit | None,
    n_particles: int,
    messages: Sequence[str],
    seconds: Mapping[str, float],
) -> None:
    """Write report.html and logfile.pdf.

    Parameters
    ----------
    layout : Layout
    settings : Settings
        Of the job.
    found : Consensus
    curves : mapping
        FSC curves (D // 2 + 1,) by RELION's label.
    fit : GuinierFit or None
    n_particles : int
    messages : sequence of str
        Shown on top.
    seconds : mapping
        Time of each part of the job.
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
        command=command_line("consensus", settings),
        settings=settings.to_mapping(),
        versions=versions(),
        n_particles=n_particles,
        box_size=len(found.map),
        pixel_size_A=found.pixel_size_A,
        messages=messages,
        files=FILES,
        elapsed_s=sum(seconds.values()),
        seconds=seconds,
        date=report_date(),
        further=figures,
        consensus=StateSummary(
            "consensus", n_particles, resolution, curve, drawn.slices, "All particles.", drawn.views
        ),
    )
    write_report_html(layout.report, content)
    write_logfile_pdf(layout.logfile, content)

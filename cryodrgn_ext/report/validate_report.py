"""report.html and logfile.pdf of a validate job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cryodrgn_ext.fourier.sharpening import GuinierFit
from cryodrgn_ext.report.guinier_plot import CAPTION, guinier_plot
from cryodrgn_ext.report.map_pictures import draw_maps
from cryodrgn_ext.report.page import ReportContent, ReportFigure
from cryodrgn_ext.report.page_html import write_report_html
from cryodrgn_ext.report.page_pdf import write_logfile_pdf
from cryodrgn_ext.report.train_report import command_line, consensus_summary, report_date, state_summary
from cryodrgn_ext.results.consensus import Consensus
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.record import versions
from cryodrgn_ext.results.states import StateResult
from cryodrgn_ext.settings import Settings

FILES = {
    "states/": "particles, map, half-maps, mask, FSC (corrected, unmasked, masked) and sharpened map of each set",
    "consensus/": "map, half-maps, mask and FSC of all particles",
    "job.yaml": "settings, versions, seed, inputs",
    "run.log": "everything that the run said",
}


def write_validation_reports(
    layout: Layout,
    settings: Settings,
    states: Mapping[str, StateResult],
    fits: Mapping[str, GuinierFit],
    consensus: Consensus,
    n_particles: int,
    messages: Sequence[str],
    elapsed_s: float,
) -> None:
    """Write report.html and logfile.pdf.

    Parameters
    ----------
    layout : Layout
    settings : Settings
    states : mapping
        Name of a set to its result.
    fits : mapping
        Name of a set to its Guinier plot, where it has one.
    consensus : Consensus
    n_particles : int
        Of all sets and the rest.
    messages : sequence of str
        Shown on top.
    elapsed_s : float
    """
    whole, pictures = draw_maps([layout.state(state.number) / "map.mrc" for state in states.values()], consensus.map)
    plain = settings.to_mapping()
    content = ReportContent(
        title="Validation of states",
        command=command_line("validate", settings),
        settings=plain,
        versions=versions(),
        seed=plain["seed"],
        n_particles=n_particles,
        box_size=len(consensus.map),
        pixel_size_A=consensus.pixel_size_A,
        states=[
            state_summary(name, state, drawn) for (name, state), drawn in zip(states.items(), pictures, strict=True)
        ],
        messages=messages,
        files=FILES,
        further=[ReportFigure("Sharpening", CAPTION, guinier_plot(fits))] if fits else [],
        elapsed_s=elapsed_s,
        date=report_date(),
        group_name="state",
        consensus=consensus_summary(consensus, n_particles, whole),
    )
    write_report_html(layout.report, content)
    write_logfile_pdf(layout.logfile, content)

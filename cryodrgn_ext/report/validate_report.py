"""report.html and logfile.pdf of a validate job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cryodrgn_ext.jobs.options.validate import ValidateSettings
from cryodrgn_ext.report.map_pictures import draw_maps
from cryodrgn_ext.report.page import ReportContent
from cryodrgn_ext.report.page_html import write_report_html
from cryodrgn_ext.report.page_pdf import write_logfile_pdf
from cryodrgn_ext.report.train_report import command_line, consensus_summary, report_date, state_summary
from cryodrgn_ext.results.consensus import Consensus
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.record import versions
from cryodrgn_ext.results.states import StateResult

FILES = {
    "states/": "particles, map, half-maps, mask and FSC (corrected, unmasked, masked) of each set",
    "consensus/": "map, half-maps, mask and FSC of all particles",
    "job.yaml": "settings, versions, seed, inputs",
    "run.log": "everything that the run said",
}


def write_validation_reports(
    layout: Layout,
    settings: ValidateSettings,
    states: Mapping[str, StateResult],
    consensus: Consensus,
    n_particles: int,
    messages: Sequence[str],
    elapsed_s: float,
) -> None:
    """Write report.html and logfile.pdf.

    Parameters
    ----------
    layout : Layout
    settings : ValidateSettings
    states : mapping
        Name of a set to its result.
    consensus : Consensus
    n_particles : int
        Of all sets and the rest.
    messages : sequence of str
        Shown on top.
    elapsed_s : float
    """
    whole, pictures = draw_maps([layout.state(state.number) / "map.mrc" for state in states.values()], consensus.map)
    content = ReportContent(
        title="Validation of states",
        command=command_line("validate", settings),
        settings=settings.to_mapping(),
        versions=versions(),
        seed=settings.seed,
        n_particles=n_particles,
        box_size=len(consensus.map),
        pixel_size_A=consensus.pixel_size_A,
        states=[
            state_summary(name, state, drawn) for (name, state), drawn in zip(states.items(), pictures, strict=True)
        ],
        messages=messages,
        files=FILES,
        elapsed_s=elapsed_s,
        date=report_date(),
        group_name="state",
        consensus=consensus_summary(consensus, n_particles, whole),
    )
    write_report_html(layout.report, content)
    write_logfile_pdf(layout.logfile, content)

"""report.html and logfile.pdf of a validate job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cryodrgn_ext.fourier.sharpening import GuinierFit
from cryodrgn_ext.report.guinier_plot import CAPTION, guinier_plot
from cryodrgn_ext.report.map_pictures import draw_maps
from cryodrgn_ext.report.map_summaries import consensus_summary, state_summary
from cryodrgn_ext.report.page import ReportContent, ReportFigure, ReportTable
from cryodrgn_ext.report.run_facts import RunFacts
from cryodrgn_ext.results.consensus import Consensus
from cryodrgn_ext.results.states import StateResult

FILES = {
    "states/": "particles, map, half-maps, mask, FSC (corrected, unmasked, masked) and sharpened map of each set",
    "consensus/": "map, half-maps, mask and FSC of all particles",
}


def write_validation_reports(
    facts: RunFacts,
    states: Mapping[str, StateResult],
    fits: Mapping[str, GuinierFit],
    consensus: Consensus,
    n_particles: int,
    tables: Sequence[ReportTable] = (),
) -> None:
    """Write report.html and logfile.pdf.

    Parameters
    ----------
    facts : RunFacts
    states : mapping
        Name of a set to its result.
    fits : mapping
        Name of a set to its Guinier plot, where it has one.
    consensus : Consensus
    n_particles : int
        Of all sets and the rest.
    tables : sequence of ReportTable
        See :func:`.evidence_tables.evidence_tables`.
    """
    whole, pictures = draw_maps(
        [facts.layout.state(state.number) / "map.mrc" for state in states.values()], consensus.map
    )
    content = ReportContent(
        title="Validation of states",
        n_particles=n_particles,
        box_size=len(consensus.map),
        pixel_size_A=consensus.pixel_size_A,
        states=[
            state_summary(name, state, drawn) for (name, state), drawn in zip(states.items(), pictures, strict=True)
        ],
        further=[ReportFigure("Sharpening", CAPTION, guinier_plot(fits))] if fits else [],
        group_name="state",
        consensus=consensus_summary(consensus, n_particles, whole),
        tables=tables,
    )
    facts.write(content, FILES)

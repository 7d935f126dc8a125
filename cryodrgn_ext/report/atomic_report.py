"""report.html and logfile.pdf of an atomic job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from cryodrgn_ext.atoms.stereochemistry import HEADINGS
from cryodrgn_ext.engines.atomic.agreement import Agreement
from cryodrgn_ext.engines.atomic.motion import ResidueEvidence
from cryodrgn_ext.report.page import ReportContent, ReportFigure, ReportTable
from cryodrgn_ext.report.plots import latent_histogram, new_figure, styled
from cryodrgn_ext.report.run_facts import RunFacts
from cryodrgn_ext.results.atomic_files import (
    ENSEMBLE_NAME,
    FOLD_NAME,
    MOTION_NAME,
    PLACEMENT_NAME,
    RESIDUES_NAME,
    SCRIPT_NAME,
)
from cryodrgn_ext.results.atomic_findings import Findings

FILES = {
    ENSEMBLE_NAME: "models along the largest motion; B-factors say how well the half-sets agree on each residue",
    "ensemble.pdb": "the same as PDB",
    "states/": "of each state its structure and its particles",
    RESIDUES_NAME: "motion of each residue, what of it both half-sets show, and the error of its position",
    SCRIPT_NAME: "opens the ensemble and the maps of the states in ChimeraX",
    PLACEMENT_NAME: "rotation and shift that bring the structure into the frame of the maps",
    MOTION_NAME: "centres of residues at nodes of the latents, and where each particle belongs",
}
FOLD_FILE = {FOLD_NAME: "latents of the particles, losses, and what single images gain"}
CAPTION = (
    "Root mean square over the particles, residue by residue: motion about the mean, the part of it that both "
    "half-sets show, and half of what they differ by. Both were fitted from the same base structure with the same "
    "restraints: agreement of positions may be the restraints' word, agreement of motions is the images'."
)
CHEMISTRY = (
    "Root mean square differences of bonds and angles from the given structure; bonds between residues that broke; "
    "pairs of heavy atoms nearer than 2.4 Å; residues but glycine outside of the allowed regions of phi and psi. "
    "Residues move as rigid bodies: refine the geometry before a structure is deposited."
)


@dataclass(frozen=True)
class AtomicTables:
    """Rows of the tables.

    Attributes
    ----------
    states : sequence of tuple of str
        Name, particles, and where structure and map agree.
    chemistry : sequence of tuple of str
        Name and figures of stereochemistry; none in results of earlier versions.
    """

    states: Sequence[tuple[str, ...]]
    chemistry: Sequence[tuple[str, ...]]


def write_atomic_reports(facts: RunFacts, found: Findings, tables: AtomicTables) -> None:
    """Write report.html and logfile.pdf."""
    shown = []
    if tables.states:
        shown.append(ReportTable("States", "FSC of each state's structure with the state's map, which was made of the "
                                 "same particles without any atoms.", ("state", "particles", "FSC 0.5 at (Å)"),
                                 tables.states))  # fmt: skip
    if tables.chemistry:
        shown.append(ReportTable("Stereochemistry", CHEMISTRY, ("structure", *HEADINGS), tables.chemistry))
    history = found.history
    content = ReportContent(
        title="Atomic motion",
        n_particles=len(found.place_A),
        tables=shown,
        loss_history={"Loss": history.tolist()} if len(history) else {},
        further=[
            ReportFigure("Residues", CAPTION, residue_motion(found.evidence)),
            *agreement_figures(found.motion.agreement),
            ReportFigure("Particles", "Where the particles lie along the largest motion.",
                         latent_histogram(found.place_A, "place along the motion (Å)")),
        ],
    )  # fmt: skip
    facts.write(content, FILES | (FOLD_FILE if len(history) else {}))


def agreement_figures(agreement: Agreement | None) -> list[ReportFigure]:
    """Residues against half-maps; none in results of earlier versions."""
    if agreement is None:
        return []
    caption = f"{agreement.sentence()} This is not the restraints' word: they know nothing of that map."
    return [ReportFigure("Half-maps", caption, residue_agreement_plot(agreement))]


@styled
def residue_agreement_plot(agreement: Agreement) -> Figure:
    """Correlation of each residue with the half-map that its fit did not see."""
    figure, axes = new_figure(6.4, 2.4)
    axis = axes.item()
    axis.plot(np.arange(1, len(agreement.correlation) + 1), agreement.correlation, color="tab:blue", lw=1)
    axis.axhline(agreement.chance, color="0.6", lw=1, ls="--", label="other places, 95 %")
    axis.set_xlabel("residue")
    axis.set_ylabel("correlation")
    axis.legend(frameon=False)
    return figure


@styled
def residue_motion(evidence: ResidueEvidence) -> Figure:
    """Motion, proven motion and error of each residue."""
    figure, axes = new_figure(6.4, 2.8)
    axis = axes.item()
    place = np.arange(1, len(evidence.motion_A) + 1)
    axis.plot(place, evidence.motion_A, color="0.6", lw=1, label="motion")
    axis.plot(place, evidence.proven_A, color="tab:blue", lw=1, label="in both half-sets")
    axis.plot(place, evidence.error_A, color="tab:red", lw=1, label="error")
    axis.set_xlabel("residue")
    axis.set_ylabel("Å")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False)
    return figure

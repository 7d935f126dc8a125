"""report.html and logfile.pdf of an atomic job."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

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


def write_atomic_reports(
    facts: RunFacts,
    evidence: ResidueEvidence,
    place_A: NDArray[np.float64],
    states: Sequence[tuple[str, ...]],
    history: NDArray[np.float64],
) -> None:
    """Write report.html and logfile.pdf.

    Parameters
    ----------
    facts : RunFacts
    evidence : ResidueEvidence
    place_A : ndarray
        (N,) place of each particle along the largest motion.
    states : sequence of tuple of str
        Rows of the table of states: name, particles, and where structure and map agree.
    history : ndarray
        Loss per image of each pass, where the atoms were learned in passes.
    """
    tables = []
    if states:
        tables = [ReportTable("States", "FSC of each state's structure with the state's map, which was made of the "
                              "same particles without any atoms.", ("state", "particles", "FSC 0.5 at (Å)"),
                              states)]  # fmt: skip
    content = ReportContent(
        title="Atomic motion",
        n_particles=len(place_A),
        tables=tables,
        loss_history={"Loss": history.tolist()} if len(history) else {},
        further=[
            ReportFigure("Residues", CAPTION, residue_motion(evidence)),
            ReportFigure("Particles", "Where the particles lie along the largest motion.",
                         latent_histogram(place_A, "place along the motion (Å)")),
        ],
    )  # fmt: skip
    facts.write(content, FILES | (FOLD_FILE if len(history) else {}))


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

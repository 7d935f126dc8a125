"""Lines of a report about maps: a state, or all particles together."""

from __future__ import annotations

import numpy as np

from cryodrgn_ext.report.map_pictures import MapPictures
from cryodrgn_ext.report.page import StateSummary
from cryodrgn_ext.results.consensus import Consensus
from cryodrgn_ext.results.states import StateResult


def state_summary(label: str, state: StateResult, drawn: MapPictures) -> StateSummary:
    """Line of a report about a state."""
    return StateSummary(
        label, state.particles, state.resolution_A, np.array(state.fsc), drawn.slices, state.finding, drawn.views
    )


def consensus_summary(consensus: Consensus, n_particles: int, drawn: MapPictures) -> StateSummary:
    """Line of a report about all particles together."""
    return StateSummary(
        "consensus", n_particles, consensus.resolution_A, consensus.fsc, drawn.slices, "All particles.", drawn.views
    )

"""The words on a consensus: how well it is resolved, and whether there is a particle in it at all."""

from __future__ import annotations

import numpy as np
import pytest

from cryodrgn_ext.results.consensus import Consensus


def consensus_at(resolution_A: float, box: int = 48, pixel_size_A: float = 5.0) -> Consensus:
    volume = np.zeros((box, box, box), np.float32)
    return Consensus(volume, volume, np.ones(box // 2 + 1), resolution_A, pixel_size_A)


def test_a_resolved_particle_is_said_without_a_warning() -> None:
    (sentence,) = consensus_at(12.5).sentences
    assert "12.50 Å" in sentence


@pytest.mark.parametrize("resolution_A", [348.0, 84.0, float("inf")])
def test_half_maps_that_share_nothing_are_warned_of(resolution_A: float) -> None:
    _, warning = consensus_at(resolution_A).sentences
    assert warning.startswith("Warning")
    assert "240 Å" in warning
    assert "no particle" in warning

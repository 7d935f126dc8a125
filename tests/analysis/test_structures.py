"""Distances of structures against scipy's superposition, brute force over assignments, and known distributions."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.stats import wasserstein_distance

from cryodrgn_ext.analysis.structures import (
    emd_rmsd,
    pair_distance_distance,
    pairwise_rmsd,
    share_within,
    superposed_rmsd,
    volume_nmse,
)

RANDOM = np.random.default_rng(3)


def _scipys(one: np.ndarray, other: np.ndarray) -> float:
    _, distance = Rotation.align_vectors(other - other.mean(axis=0), one - one.mean(axis=0))
    return float(distance / np.sqrt(len(one)))


@pytest.mark.parametrize("mirrored", [False, True])
def test_superposed_distances_are_scipys(mirrored: bool) -> None:
    one = RANDOM.normal(size=(9, 3)) * 5
    turned = one @ Rotation.random(random_state=1).as_matrix().T + [3, -2, 7]
    other = (turned * [-1, 1, 1] if mirrored else turned) + RANDOM.normal(size=(9, 3)) * 0.3
    assert superposed_rmsd(one, other) == pytest.approx(_scipys(one, other), abs=1e-6)


def test_the_earth_movers_distance_is_the_best_of_all_assignments() -> None:
    some, others = RANDOM.normal(size=(2, 5, 7, 3))
    cost = pairwise_rmsd(some, others)
    assert cost[2, 3] == pytest.approx(_scipys(some[2], others[3]), abs=1e-6)
    best = min(np.mean([cost[i, j] for i, j in enumerate(order)]) for order in permutations(range(5)))
    assert emd_rmsd(some, others) == pytest.approx(best, rel=1e-9)
    turned = some[::-1] @ Rotation.random(random_state=2).as_matrix().T
    assert emd_rmsd(some, turned) == pytest.approx(0, abs=1e-5)


def test_pair_distances_are_compared_as_distributions() -> None:
    """Against scipy's distance of two samples of one number, with samples of unequal size."""
    some, others = RANDOM.normal(size=(6, 2, 3)), RANDOM.normal(size=(3, 2, 3)) * 2
    lengths = [np.linalg.norm(one[:, 0] - one[:, 1], axis=1) for one in (some, others)]
    assert pair_distance_distance(some, others) == pytest.approx(wasserstein_distance(*lengths))


def test_shares_and_maps() -> None:
    points = np.zeros((4, 3))
    assert share_within(points, points + np.array([[0, 0, 2.9], [0, 3.1, 0], [2, 2, 0], [2, 2, 2]])) == 0.5
    truth = RANDOM.normal(size=(4, 4, 4))
    assert volume_nmse(7 * truth, truth) == pytest.approx(0, abs=1e-12)
    noise = RANDOM.normal(size=(4, 4, 4))
    noise -= truth * (noise * truth).sum() / (truth**2).sum()
    assert volume_nmse(noise, truth) == pytest.approx(1)

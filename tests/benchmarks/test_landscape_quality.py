"""The measures of benchmarks/landscape_quality.py on truths and clusters made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from landscape_quality import SETS, closure, coordinates, failures, open_hinge, predicted, rare_found, thirds

from cryodrgn_ext.simulate import MOTIONS, GroundTruth, RareStateMotion, simulate_particles
from cryodrgn_ext.simulate.truth import ground_truth


def truth_of(name: str, n: int = 600) -> GroundTruth:
    chosen = SETS[name]
    motion = MOTIONS[chosen.motion](0)
    if chosen.rare:
        motion = RareStateMotion(motion, 0.02)
    return ground_truth(simulate_particles(n, motion=motion, box_size=64, seed=0))


@pytest.mark.parametrize("name", [name for name, chosen in SETS.items() if chosen.groups is not None])
def test_true_groups_are_as_many_as_the_clusters_that_are_asked_for(name: str) -> None:
    groups = SETS[name].groups
    assert groups is not None
    assert len(np.unique(groups(truth_of(name, 300)))) == SETS[name].clusters


def test_groups_of_motions_follow_their_angles() -> None:
    uniform = truth_of("uniform")
    edges = [uniform.coordinates[thirds(uniform) == k, 0].max() for k in range(2)]
    assert edges[0] < edges[1]
    hinges = truth_of("linear-2d")
    assert (hinges.coordinates[open_hinge(hinges) == 0] <= 10).all()
    assert (hinges.coordinates[open_hinge(hinges) == 2, 1] > 10).all()


def test_neighbours_predict_what_follows_from_them() -> None:
    truth = truth_of("circular", 2000)
    y = coordinates("circular", truth)
    noise = np.random.default_rng(0).normal(size=(2000, 3))
    assert predicted(np.hstack([y, 0.05 * noise]), y) > 0.95
    assert predicted(noise, y) < 0.1


def test_a_circle_closes_and_an_arc_does_not() -> None:
    rng = np.random.default_rng(0)
    for turn, closes in ((2 * np.pi, True), (1.2 * np.pi, False)):
        angle = rng.uniform(0, turn, 4000)
        curve = np.stack([np.cos(angle), np.sin(angle), 0.2 * np.sin(2 * angle)], axis=1)
        v = curve + 0.05 * rng.normal(size=curve.shape)
        line = {"set": "circular", "seed": 0, **closure(v)}
        assert (failures([line]) == []) == closes


def test_a_planted_state_is_found_where_it_is_most_of_a_cluster() -> None:
    truth = truth_of("hinge-rare")
    planted = truth.coordinates[:, -1] > 0
    assert rare_found(truth, np.where(planted, 3, 1)) == {"recall": 1.0, "precision": 1.0}
    everything = rare_found(truth, np.zeros(len(planted), int))
    assert everything["recall"] == 1.0
    assert everything["precision"] == pytest.approx(planted.mean(), abs=1e-3)
    found = {"set": "hinge-rare", "seed": 0, "recall": 0.9, "precision": 0.9}
    missed = found | {"precision": 0.01}
    assert failures([found] * 4 + [missed]) == []
    assert failures([found] * 3 + [missed] * 2) == ["hinge-rare: the planted state was found in 3 of 5 seeds"]
    assert failures([{"set": "discrete", "seed": 1, "ari": 0.8}]) == ["discrete, seed 1: adjusted Rand index 0.8"]

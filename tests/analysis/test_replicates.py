from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, confusion_matrix

from cryodrgn_ext.analysis.replicates import (
    compare_clusterings,
    compare_latents,
    compare_runs,
)
from cryodrgn_ext.errors import InputError


def test_renumbered_clusters_agree_fully() -> None:
    label = np.random.default_rng(0).integers(0, 5, 400)
    other = np.array([3, 0, 4, 1, 2])[label]
    consistency = compare_clusterings(label, other)
    assert consistency.percentage == 100.0
    assert consistency.adjusted_rand == 1.0
    assert np.array_equal(consistency.partner, [3, 0, 4, 1, 2])
    assert np.array_equal(consistency.relabel(other), label)


@pytest.mark.parametrize(("first_k", "second_k"), [(4, 4), (3, 5), (5, 3)])
def test_the_matching_is_the_best_of_all(first_k: int, second_k: int) -> None:
    rng = np.random.default_rng(first_k)
    first = rng.integers(0, first_k, 300)
    second = np.where(rng.random(300) < 0.6, first % second_k, rng.integers(0, second_k, 300))
    consistency = compare_clusterings(first, second)
    confusion = consistency.confusion
    square = confusion_matrix(first, second)[:first_k, :second_k]
    assert np.array_equal(confusion, square)
    wide = confusion if first_k <= second_k else confusion.T
    best = max(
        sum(wide[row, column] for row, column in enumerate(columns))
        for columns in itertools.permutations(range(wide.shape[1]), wide.shape[0])
    )
    assert consistency.percentage == pytest.approx(100 * best / 300)
    assert consistency.adjusted_rand == pytest.approx(adjusted_rand_score(first, second))
    renamed = consistency.relabel(second)
    assert 100 * np.mean(renamed == first) == pytest.approx(consistency.percentage)
    assert len(np.unique(renamed)) == len(np.unique(second))


def test_unrelated_clusterings_have_no_rand_index() -> None:
    rng = np.random.default_rng(1)
    consistency = compare_clusterings(rng.integers(0, 6, 5000), rng.integers(0, 6, 5000))
    assert abs(consistency.adjusted_rand) < 0.01
    assert consistency.percentage < 22


def test_one_cluster_in_both() -> None:
    consistency = compare_clusterings(np.zeros(7, np.int32), np.zeros(7, np.int32))
    assert (consistency.percentage, consistency.adjusted_rand) == (100.0, 1.0)


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [([0, 1], [0], "shapes"), ([], [], "shapes"), ([0, -1], [0, 0], "negative")],
)
def test_what_cannot_be_compared(first: list[int], second: list[int], says: str) -> None:
    with pytest.raises(InputError, match=says):
        compare_clusterings(np.array(first, np.int64), np.array(second, np.int64))


def test_latents_of_another_basis_agree_linearly() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(3000, 4))
    other = z @ rng.normal(size=(4, 4)) + 7
    found = compare_latents(z, other)
    assert found.linear == pytest.approx(1.0)
    assert found.neighbors > 0.8


def test_curved_latents_agree_by_neighbours_only() -> None:
    """A line and a closed curve over it: no linear function tells one from the other, neighbours do."""
    angle = np.random.default_rng(1).uniform(0, 6 * np.pi, 3000)
    found = compare_latents(angle[:, None], np.stack([np.cos(angle), np.sin(angle)], axis=1))
    assert found.linear < 0.1
    assert found.neighbors > 0.95


def test_the_share_is_that_of_the_common_part() -> None:
    rng = np.random.default_rng(2)
    z = rng.normal(size=(4000, 2))
    noisy = z + rng.normal(size=z.shape)  # half of its variance is its own
    assert compare_latents(z, noisy).linear == pytest.approx(0.5, abs=0.03)


def test_unrelated_latents_do_not_agree() -> None:
    rng = np.random.default_rng(3)
    found = compare_latents(rng.normal(size=(2000, 3)), rng.normal(size=(2000, 3)))
    assert found.linear < 0.01
    assert found.neighbors < 0.01
    constant = compare_latents(rng.normal(size=(50, 2)), np.ones((50, 2)))
    assert (constant.linear, constant.neighbors) == (0.0, 0.0)


def test_latents_must_be_of_common_particles() -> None:
    with pytest.raises(InputError, match="3 latents of one run but 4"):
        compare_latents(np.zeros((3, 1)), np.zeros((4, 1)))


def test_runs_are_compared_pair_by_pair_and_numbered_as_the_first() -> None:
    rng = np.random.default_rng(5)
    label = rng.integers(0, 3, 900)
    z = np.eye(3)[label] + 0.1 * rng.normal(size=(900, 3))
    swapped = np.array([2, 0, 1])[label]
    moved = swapped.copy()
    moved[:90] = (moved[:90] + 1) % 3
    found = compare_runs([z, z @ rng.normal(size=(3, 3)), rng.normal(size=(900, 2))], [label, swapped, moved])
    assert found.adjusted_rand[0, 1] == 1.0
    assert found.adjusted_rand[1, 2] == pytest.approx(adjusted_rand_score(swapped, moved))
    np.testing.assert_array_equal(found.adjusted_rand, found.adjusted_rand.T)
    assert found.percentage[0, 2] == pytest.approx(90.0)
    np.testing.assert_array_equal(found.label[:, 1], label)
    np.testing.assert_array_equal(found.agreeing, np.arange(900) >= 90)
    np.testing.assert_array_equal(found.votes, np.where(np.arange(900) >= 90, 3, 2))
    assert found.linear[0, 1] == pytest.approx(1.0)
    assert found.linear[0, 2] < 0.05
    assert found.neighbors[2, 0] < 0.05

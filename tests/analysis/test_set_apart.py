from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from cryodrgn_ext.analysis.set_apart import _valley, groups_set_apart
from cryodrgn_ext.analysis.sketch import Sketch, sketch_particles
from cryodrgn_ext.analysis.volume_clusters import VolumeClusters, cut_tree, split_off, volume_tree

N = 6000
K = 150


def continuum(kind: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "line":
        return np.column_stack([rng.uniform(-5, 5, N), 0.3 * rng.normal(size=(N, 4))])
    if kind == "ring":
        angle = rng.uniform(0, 2 * np.pi, N)
        return np.column_stack([3 * np.cos(angle), 3 * np.sin(angle), 0.2 * rng.normal(size=N)])
    if (
        kind == "thin"
    ):  # a bent band, much as a real motion looks: as thick in some dimensions as its neighbours are far
        t = rng.uniform(-1, 1, N)
        curve = np.column_stack([4 * t, 2 * t**2, t**3, 0.4 * np.sin(6 * t), np.zeros(N), np.zeros(N)])
        return curve + rng.normal(size=(N, 6)) * [0.3, 0.3, 0.3, 0.15, 0.1, 0.05]
    return rng.normal(size=(N, int(kind)))


def sketched(x: np.ndarray, seed: int) -> tuple[Sketch, np.ndarray, np.ndarray]:
    sketch = sketch_particles(x, K, seed=seed)
    distances = squareform(pdist(x[sketch.index]))
    return sketch, distances, volume_tree(distances)


@pytest.mark.parametrize("kind", ["1", "2", "4", "8", "line", "ring", "thin"])
@pytest.mark.parametrize("seed", range(2))
def test_pieces_of_a_continuum_are_not_set_apart(kind: str, seed: int) -> None:
    x = continuum(kind, seed)
    sketch, distances, tree = sketched(x, seed)
    assert groups_set_apart(x, sketch.label, tree, distances, 20) == []


@pytest.mark.parametrize("kind", ["2", "8", "line", "ring"])
@pytest.mark.parametrize("seed", range(2))
def test_a_rare_state_beside_a_continuum_is_found(kind: str, seed: int) -> None:
    x = continuum(kind, seed)
    rng = np.random.default_rng(100 + seed)
    x[:40] = 0.25 * rng.normal(size=(40, x.shape[1]))
    x[:40, -1] += 6.0 if kind in ("2", "8") else 3.0
    sketch, distances, tree = sketched(x, seed)
    groups = groups_set_apart(x, sketch.label, tree, distances, 20)
    assert len(groups) == 1
    members = np.isin(sketch.label, groups[0])
    assert members[:40].mean() > 0.9
    assert members[40:].sum() <= 4
    before = cut_tree(tree, distances, 3, sketch.size, 20)
    after = split_off(before, groups, distances, sketch.size)
    label = after.label[sketch.label]
    assert (label[:40] == np.bincount(label[:40]).argmax()).mean() > 0.9
    assert after.n_clusters in (3, 4)
    assert after.n_particles.sum() == N


@pytest.mark.parametrize("seed", range(2))
def test_a_thin_tail_of_a_state_is_not_set_apart(seed: int) -> None:
    """Latents of poor images shrink towards zero, along a line from their state."""
    rng = np.random.default_rng(seed)
    states = 4 * np.eye(6)[rng.integers(0, 6, N)]
    x = states + 0.15 * rng.normal(size=(N, 6))
    poor = rng.random(N) < 0.05
    x[poor] *= 1 - 0.6 * rng.beta(1, 3, (np.count_nonzero(poor), 1))
    sketch, distances, tree = sketched(x, seed)
    assert groups_set_apart(x, sketch.label, tree, distances, 20) == []


def test_a_group_that_is_a_cluster_already_stays_one() -> None:
    x = np.concatenate([np.random.default_rng(0).normal(size=(50, 2)), [[20.0, 0.0], [20.5, 0.0]]])
    distances = squareform(pdist(x))
    size = np.full(52, 10)
    clusters = cut_tree(volume_tree(distances), distances, 2, size)
    same = split_off(clusters, [np.array([50, 51])], distances, size)
    assert np.array_equal(same.label, clusters.label)
    across = split_off(clusters, [np.array([0, 51])], distances, size)
    assert np.array_equal(across.label, clusters.label)
    new: VolumeClusters = split_off(clusters, [np.array([3, 4, 5])], distances, size)
    assert new.n_clusters == 3
    assert len(np.unique(new.label[[3, 4, 5]])) == 1
    assert new.n_volumes[new.label[3]] == 3


def test_a_group_that_was_cut_in_pieces_becomes_one() -> None:
    x = np.concatenate([np.random.default_rng(0).normal(size=(50, 2)), [[20.0, 0.0], [20.0, 9.0]]])
    distances = squareform(pdist(x))
    size = np.full(52, 10)
    clusters = cut_tree(volume_tree(distances), distances, 3, size)
    assert clusters.label[50] != clusters.label[51]
    joined = split_off(clusters, [np.array([50, 51])], distances, size)
    assert joined.n_clusters == 2
    assert joined.label[50] == joined.label[51] != joined.label[0]
    assert joined.medoid[joined.label[50]] in (50, 51)


def test_few_particles_have_no_groups() -> None:
    x = np.random.default_rng(0).normal(size=(15, 2))
    distances = squareform(pdist(x))
    assert groups_set_apart(x, np.arange(15), volume_tree(distances), distances, 2) == []


def test_a_group_of_equal_particles_has_a_valley_around_it() -> None:
    """Without any spread of its own; volumes that are interpolated may be the same for many latents."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 2))
    inside = np.arange(500) < 20
    x[inside] = [9.0, 0.0]
    assert _valley(x, inside) < 1e-6

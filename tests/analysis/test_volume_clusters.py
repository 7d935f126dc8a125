from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from cryodrgn_ext.analysis.volume_clusters import cut_tree, default_min_particles, volume_tree
from cryodrgn_ext.errors import InputError


def volumes(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(80, 30)) * rng.uniform(0.5, 2, 30)


@pytest.mark.parametrize("method", ["average", "ward", "complete"])
@pytest.mark.parametrize("n_clusters", [1, 4, 17])
def test_clusters_are_those_of_scikit_learn(method: str, n_clusters: int) -> None:
    x = volumes()
    distances = squareform(pdist(x))
    clusters = cut_tree(volume_tree(distances, method), distances, n_clusters, np.ones(80, int))
    oracle = AgglomerativeClustering(n_clusters, linkage=method).fit_predict(x)
    assert adjusted_rand_score(oracle, clusters.label) == 1.0
    assert clusters.n_clusters == n_clusters
    assert np.array_equal(clusters.n_volumes, np.bincount(clusters.label))
    assert not clusters.reassigned.any()


@pytest.mark.parametrize("method", ["average", "complete", "ward"])
def test_clusters_by_correlation(method: str) -> None:
    x = volumes(1)
    distances = squareform(pdist(x, "correlation"))
    clusters = cut_tree(volume_tree(distances, method, "correlation"), distances, 5, np.ones(80, int))
    if method == "ward":  # of standardised volumes
        centred = x - x.mean(axis=1, keepdims=True)
        oracle = AgglomerativeClustering(5, linkage="ward").fit_predict(
            centred / np.linalg.norm(centred, axis=1, keepdims=True)
        )
    else:
        oracle = AgglomerativeClustering(5, metric="precomputed", linkage=method).fit_predict(distances)
    assert adjusted_rand_score(oracle, clusters.label) == 1.0


def test_on_data_volumes_and_centroids() -> None:
    x = volumes(2)
    distances = squareform(pdist(x))
    size = np.random.default_rng(0).integers(1, 50, 80)
    clusters = cut_tree(volume_tree(distances), distances, 6, size)
    centroids = clusters.averaging() @ x
    for number in range(6):
        members = np.flatnonzero(clusters.label == number)
        np.testing.assert_allclose(centroids[number], x[members].mean(axis=0))
        total = [distances[i, members].sum() for i in members]
        assert clusters.medoid[number] == members[int(np.argmin(total))]
        assert clusters.n_particles[number] == size[members].sum()


def test_outliers_do_not_use_up_the_clusters() -> None:
    """Two states, one rare, and single outliers that are farther than either: two clusters are the two states."""
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.normal(size=(60, 3)), rng.normal(size=(4, 3)) * 0.3 + [7, 0, 0], 40 * np.eye(3)])
    size = np.concatenate([np.full(60, 40), np.full(4, 15), np.ones(3, int)])
    distances = squareform(pdist(x))
    tree = volume_tree(distances)
    clusters = cut_tree(tree, distances, 2, size, min_particles=20)
    assert sorted(clusters.n_volumes[[clusters.label[0], clusters.label[60]]]) == sorted(clusters.n_volumes)
    assert len(np.unique(clusters.label[:60])) == len(np.unique(clusters.label[60:64])) == 1
    assert clusters.label[0] != clusters.label[60]
    assert np.flatnonzero(clusters.reassigned).tolist() == [64, 65, 66]
    assert not np.isin(clusters.medoid, [64, 65, 66]).any()
    expected = [int(np.argmin([distances[i, :60].mean(), distances[i, 60:64].mean()])) for i in (64, 65, 66)]
    assert [[clusters.label[0], clusters.label[60]][e] for e in expected] == clusters.label[64:].tolist()
    plain = cut_tree(tree, distances, 2, size)
    assert 1 in plain.n_volumes


def test_as_many_clusters_as_there_are_groups_large_enough() -> None:
    x = np.array([[0.0], [1.0], [10.0], [11.0], [30.0]])
    distances = squareform(pdist(x))
    clusters = cut_tree(volume_tree(distances), distances, 5, np.array([10, 10, 10, 10, 10]), min_particles=20)
    assert clusters.n_clusters == 2
    assert clusters.label[0] == clusters.label[1] != clusters.label[2] == clusters.label[3]


def test_neighbours_in_number_are_similar() -> None:
    x = np.random.default_rng(0).permutation(np.repeat([0.0, 5.0, 9.0, 14.0], 5))[:, None]
    distances = squareform(pdist(x))
    clusters = cut_tree(volume_tree(distances), distances, 4, np.ones(20, int))
    means = [x[clusters.label == number].mean() for number in range(4)]
    assert means in (sorted(means), sorted(means, reverse=True))


def test_default_of_the_fewest_particles() -> None:
    assert [default_min_particles(n) for n in (5, 1000, 20_000, 344_069)] == [5, 10, 20, 344]


def test_what_cannot_be_clustered() -> None:
    distances = squareform(pdist(np.arange(4.0)[:, None]))
    tree = volume_tree(distances)
    with pytest.raises(InputError, match="5 clusters asked for"):
        cut_tree(tree, distances, 5, np.ones(4, int))
    with pytest.raises(InputError, match="only 4"):
        cut_tree(tree, distances, 2, np.ones(4, int), min_particles=9)
    with pytest.raises(InputError, match="no linkage 'single'"):
        volume_tree(distances, "single")
    with pytest.raises(InputError, match="at least two volumes"):
        volume_tree(distances[:1, :1])

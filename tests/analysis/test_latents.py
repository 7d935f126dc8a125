from __future__ import annotations

import numpy as np
import pytest

from cryodrgn_ext.analysis.latents import (
    cluster_latents,
    latent_outliers,
    nearest_particles,
    principal_components,
    umap_embedding,
)
from cryodrgn_ext.errors import InputError


def blobs(n_each: int = 100, q: int = 5, n_blobs: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Well separated blobs along a line, in shuffled order."""
    rng = np.random.default_rng(seed)
    number = rng.permutation(np.repeat(np.arange(n_blobs), n_each))
    direction = rng.normal(size=q)
    direction /= np.linalg.norm(direction)
    return (10.0 * number[:, None] * direction + rng.normal(size=(len(number), q))).astype(np.float32), number


def test_pca_recovers_a_planted_direction() -> None:
    rng = np.random.default_rng(1)
    planted = np.array([0.6, 0.0, -0.8, 0.0])
    z = 5.0 * rng.normal(size=(4000, 1)) * planted + 0.5 * rng.normal(size=(4000, 4)) + [3, 1, 4, 1]
    components = principal_components(z)
    assert abs(components.axes[0] @ planted) > 0.999
    assert components.variance[0] == pytest.approx(25.25, rel=0.05)
    assert components.explained_variance_ratio.sum() == pytest.approx(1)
    assert np.allclose(components.axes @ components.axes.T, np.eye(4), atol=1e-10)
    assert np.allclose(components.latent_at(components.projections.astype(np.float64)), z, atol=1e-4)


def test_pca_does_not_depend_on_the_sign_that_the_eigensolver_chose() -> None:
    z = np.random.default_rng(2).normal(size=(500, 3)) * [3, 2, 1]
    first, mirrored = principal_components(z), principal_components(z[::-1])
    assert np.allclose(first.projections, mirrored.projections[::-1], atol=1e-4)


def test_pca_of_equal_latents_explains_nothing() -> None:
    assert np.all(principal_components(np.ones((10, 2))).explained_variance_ratio == 0)


def test_clusters_are_the_blobs_in_order_with_centres_on_data() -> None:
    z, number = blobs()
    clustering = cluster_latents(z, 6, seed=3)
    table = np.zeros((6, 6), int)
    np.add.at(table, (clustering.label, number), 1)
    assert np.count_nonzero(table) == 6  # one to one
    order = table.argmax(axis=1)
    assert list(order) in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0])  # neighbours in number are neighbours in space
    assert np.array_equal(clustering.center, z[clustering.center_index])
    assert np.array_equal(clustering.label[clustering.center_index], np.arange(6))
    assert clustering.size.sum() == len(z)
    for k in range(6):
        members = z[clustering.label == k]
        distance = np.linalg.norm(members - members.mean(0), axis=1)
        chosen = np.linalg.norm(clustering.center[k] - members.mean(0))
        assert chosen == pytest.approx(distance.min(), rel=1e-3)


def test_clustering_repeats_itself() -> None:
    z = np.random.default_rng(0).normal(size=(1000, 3))
    first, again = cluster_latents(z, 7, seed=1), cluster_latents(z, 7, seed=1)
    assert np.array_equal(first.label, again.label)
    assert np.array_equal(first.center_index, again.center_index)


def test_large_sets_are_clustered_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryodrgn_ext.analysis.latents.MINI_BATCH_FROM", 100)
    z, number = blobs()
    clustering = cluster_latents(z, 6)
    assert clustering.n_clusters == 6
    assert all(len(np.unique(number[clustering.label == k])) == 1 for k in range(6))


@pytest.mark.parametrize("n_clusters", [1, 2])
def test_few_clusters(n_clusters: int) -> None:
    z, _ = blobs(n_blobs=2)
    clustering = cluster_latents(z, n_clusters)
    assert clustering.n_clusters == n_clusters
    assert set(clustering.label) == set(range(n_clusters))


def test_clusters_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="5 clusters asked for, but there are 3 particles"):
        cluster_latents(np.zeros((3, 2)), 5)
    with pytest.raises(InputError, match="only 2 distinct values"):
        cluster_latents(np.repeat([[0.0], [1.0]], 20, axis=0), 3)


def test_latents_that_are_not_finite_are_named() -> None:
    z = np.zeros((10, 2))
    z[7, 1] = np.nan
    with pytest.raises(InputError, match="latents of 1 particles are not finite \\(first: row 7\\)"):
        principal_components(z)


def test_umap_keeps_blobs_apart_and_repeats_itself() -> None:
    z, number = blobs(n_each=60, n_blobs=3)
    first, again = umap_embedding(z, seed=4), umap_embedding(z, seed=4)
    assert np.array_equal(first.xy, again.xy)
    assert np.array_equal(first.index, np.arange(180))
    nearest = np.linalg.norm(first.xy[:, None] - first.xy[None], axis=-1) + 1e9 * np.eye(180)
    assert (number[nearest.argmin(axis=1)] == number).mean() > 0.99


def test_umap_of_many_particles_takes_a_sample() -> None:
    z, _ = blobs()
    embedding = umap_embedding(z, max_points=150)
    assert embedding.xy.shape == (150, 2)
    assert np.all(np.diff(embedding.index) > 0)
    with pytest.raises(InputError, match="at least 4 particles"):
        umap_embedding(z[:3])


def test_outliers_are_the_planted_ones() -> None:
    z = np.random.default_rng(5).normal(size=(2000, 4))
    z[[10, 500]] += 30
    assert np.array_equal(latent_outliers(z), [10, 500])
    assert len(latent_outliers(np.ones((20, 2)))) == 0


def test_nearest_particles_of_data_points_are_themselves() -> None:
    z = np.random.default_rng(6).normal(size=(100, 3))
    assert np.array_equal(nearest_particles(z, z[[5, 70]] + 1e-6), [5, 70])


def test_a_few_outliers_do_not_take_the_clusters_of_all_others() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2000, 3)).astype(np.float32)
    z[:, 0] += np.where(np.arange(2000) % 2, 6.0, -6.0)
    outliers = np.array([5, 600, 601, 1999])
    z[outliers] *= 300.0
    assert sorted(cluster_latents(z, 2).size.tolist())[0] < 5  # what k-means does by itself
    found = cluster_latents(z, 2, fewest=20)
    assert found.apart.tolist() == outliers.tolist()
    assert found.size.sum() == 2000
    assert min(found.size) > 900
    inside = np.setdiff1d(np.arange(2000), outliers)
    assert len(np.unique(found.label[inside][z[inside, 0] > 0])) == 1
    assert not np.isin(found.center_index, outliers).any()


def test_states_that_are_large_enough_stay_as_they_were() -> None:
    rng = np.random.default_rng(1)
    z = rng.normal(size=(1000, 2)).astype(np.float32)
    z[:30] += 40.0
    plain, guarded = cluster_latents(z, 4), cluster_latents(z, 4, fewest=20)
    assert np.array_equal(plain.label, guarded.label)
    assert len(guarded.apart) == 0
    assert 30 in guarded.size.tolist()


def test_small_clusters_everywhere_are_no_outliers() -> None:
    z = np.random.default_rng(2).normal(size=(100, 2)).astype(np.float32)
    found = cluster_latents(z, 20, fewest=10)
    assert len(found.apart) == 0
    assert found.n_clusters == 20

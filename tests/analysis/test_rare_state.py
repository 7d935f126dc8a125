"""A planted state of 0.3 % of 20,000 particles among the clusters of a landscape, and ten discrete states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from cryodrgn_ext.analysis.set_apart import groups_set_apart
from cryodrgn_ext.analysis.sketch import nearest_points, sketch_particles
from cryodrgn_ext.analysis.volume_basis import (
    gram_matrix,
    half_maximum_mask,
    masked_rows,
    volume_basis,
    volume_coordinates,
)
from cryodrgn_ext.analysis.volume_clusters import cut_tree, default_min_particles, split_off, volume_tree
from cryodrgn_ext.analysis.volume_mapping import map_linear
from cryodrgn_ext.analysis.volume_pca import volume_distances, volume_pca
from cryodrgn_ext.progress import SilentMonitor
from tests.analysis.toy_engines import LinearToy


def landscape_labels(z: np.ndarray, seed: int, folder: Path, n_points: int = 500, n_clusters: int = 10) -> np.ndarray:
    """Cluster of each particle by the steps of the landscape job with its defaults."""
    model = LinearToy(z, 20)
    sketch = sketch_particles(volume_coordinates(model, z), n_points, seed=seed)
    basis = volume_basis(model, z[sketch.index])
    mask = half_maximum_mask(model.volumes(z[sketch.index]))
    rows = masked_rows(basis, mask, folder / "rows.npy", SilentMonitor())
    gram, sums = gram_matrix(rows)
    v = map_linear(basis, gram, volume_pca(gram, basis.sketch_weights), z)
    nearest = nearest_points(v, v[sketch.index])
    size = np.bincount(nearest, minlength=len(sketch.index))
    distances = volume_distances(gram, sums, rows.shape[1], basis.sketch_weights)
    tree = volume_tree(distances)
    fewest = default_min_particles(len(z))
    clusters = cut_tree(tree, distances, n_clusters, size, fewest)
    clusters = split_off(clusters, groups_set_apart(v, nearest, tree, distances, fewest), distances, size)
    return clusters.label[nearest]


def test_a_state_of_three_in_a_thousand_particles_is_a_cluster(tmp_path: Path) -> None:
    """Beside a long continuum for even seeds, a cloud for odd ones."""
    found = 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        spread = np.array([1, 0.8, 0.7, 0.6, 0.5, 0.5, 0.5, 0.5]) * (1.0 if seed % 2 else 0.5)
        z = rng.normal(size=(20_000, 8)) * spread
        if seed % 2 == 0:
            z[:, 0] = rng.uniform(-3, 3, len(z))
        z[:60] = rng.normal(size=(60, 8)) * 0.3
        z[:60, 3] += 3.0
        label = landscape_labels(z.astype(np.float32), seed, tmp_path)
        best = np.bincount(label[:60]).argmax()
        recall, precision = np.mean(label[:60] == best), np.mean(np.flatnonzero(label == best) < 60)
        found += bool(recall > 0.8 and precision > 0.8)
    assert found >= 4


@pytest.mark.parametrize("seed", range(2))
def test_ten_discrete_states_are_the_ten_clusters(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 10, 4000)
    z = rng.normal(size=(10, 6))[truth] + 0.2 * rng.normal(size=(4000, 6))
    label = landscape_labels(z.astype(np.float32), seed, tmp_path, n_points=200)
    assert adjusted_rand_score(truth, label) > 0.9

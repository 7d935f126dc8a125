"""Everything that follows from Gram matrices, against volumes that are rendered, masked and compared in float64."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from sklearn.decomposition import PCA

from cryodrgn_ext.analysis import volume_basis as volume_basis_module
from cryodrgn_ext.analysis.volume_basis import (
    combined_maps,
    combined_rows,
    gram_matrix,
    half_maximum_mask,
    masked_rows,
    volume_basis,
    volume_coordinates,
)
from cryodrgn_ext.analysis.volume_pca import volume_distances, volume_pca
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.progress import SilentMonitor
from tests.analysis.toy_engines import LinearToy, MovingToy, Toy

BOX = 16
K = 40


def latents(n: int = K, q: int = 3, seed: int = 0) -> np.ndarray:
    return (0.4 * np.random.default_rng(seed).normal(size=(n, q))).astype(np.float32)


@pytest.fixture(params=["linear", "bent", "moving"])
def model(request: pytest.FixtureRequest) -> Toy:
    z = latents()
    if request.param == "linear":
        return LinearToy(z, BOX)
    if request.param == "bent":
        return LinearToy(z, BOX, n_components=7, bend=0.2)
    return MovingToy(z, BOX)


def prepared(model: Toy, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Basis, mask, masked rows, and the masked volumes in float64 (the oracle)."""
    basis = volume_basis(model, model.z)
    mask = half_maximum_mask(model.volumes(model.z))
    rows = masked_rows(basis, mask, tmp_path / "rows.npy", SilentMonitor())
    volumes = np.stack([model.volume(row) for row in model.z]).astype(np.float64)
    return basis, mask, rows, volumes


def test_mask_is_the_union_above_half_of_each_maximum(model: Toy) -> None:
    volumes = np.stack([model.volume(row) for row in model.z])
    expected = (volumes > 0.5 * volumes.max(axis=(1, 2, 3), keepdims=True)).any(axis=0)
    assert np.array_equal(half_maximum_mask(iter(volumes)), expected)
    assert 10 < expected.sum() < expected.size / 2


def test_a_model_without_density_is_refused() -> None:
    with pytest.raises(InputError, match="no positive density"):
        half_maximum_mask([np.zeros((4, 4, 4), np.float32)])


def test_rows_times_weights_are_the_sketched_volumes(model: Toy, tmp_path: Path) -> None:
    basis, mask, rows, volumes = prepared(model, tmp_path)
    np.testing.assert_allclose(basis.sketch_weights @ rows, volumes[:, mask], atol=1e-5)
    gram, total = gram_matrix(rows)
    exact = np.asarray(rows, np.float64)
    np.testing.assert_allclose(gram, exact @ exact.T, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(total, exact.sum(axis=1), rtol=1e-12, atol=1e-9)
    weights = np.random.default_rng(0).normal(size=(3, basis.n_rows))
    np.testing.assert_allclose(combined_rows(rows, weights), weights @ exact, rtol=1e-5, atol=1e-5)


def test_principal_components_are_those_of_the_masked_volumes(model: Toy, tmp_path: Path) -> None:
    basis, mask, rows, volumes = prepared(model, tmp_path)
    gram, _ = gram_matrix(rows)
    pca = volume_pca(gram, basis.sketch_weights)
    oracle = PCA(min(5, pca.n_components)).fit(volumes[:, mask])
    n = oracle.n_components_
    np.testing.assert_allclose(pca.explained_variance_ratio[:n], oracle.explained_variance_ratio_, rtol=1e-4)
    np.testing.assert_allclose(pca.variance[:n] * K / (K - 1), oracle.explained_variance_, rtol=1e-4)
    coordinates = oracle.transform(volumes[:, mask])
    sign = np.sign((coordinates * pca.coordinates[:, :n]).sum(axis=0))
    np.testing.assert_allclose(pca.coordinates[:, :n] * sign, coordinates, atol=1e-3 * np.abs(coordinates).max())
    eigenvolumes = combined_rows(rows, pca.axes).astype(np.float64)[:n]
    np.testing.assert_allclose(eigenvolumes @ eigenvolumes.T, np.eye(n), atol=1e-4)
    assert (pca.coordinates.max(axis=0) >= -pca.coordinates.min(axis=0)).all()
    np.testing.assert_allclose(pca.project(basis.sketch_weights, gram), pca.coordinates, atol=1e-6)


@pytest.mark.parametrize("metric", ["euclidean", "correlation"])
def test_distances_are_those_of_the_masked_volumes(model: Toy, metric: str, tmp_path: Path) -> None:
    basis, mask, rows, volumes = prepared(model, tmp_path)
    gram, sums = gram_matrix(rows)
    distances = volume_distances(gram, sums, rows.shape[1], basis.sketch_weights, metric)
    expected = squareform(pdist(volumes[:, mask], metric))
    np.testing.assert_allclose(distances, expected, atol=1e-4 * expected.max())


def test_averages_of_whole_maps(model: Toy, tmp_path: Path) -> None:
    basis, _, _, volumes = prepared(model, tmp_path)
    averaging = np.zeros((2, K))
    averaging[0, :4], averaging[1, 7] = 0.25, 1
    found = list(combined_maps(basis, averaging @ basis.sketch_weights, BOX, SilentMonitor()))
    np.testing.assert_allclose(found[0], volumes[:4].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found[1], volumes[7], atol=1e-5)


def test_memory_does_not_grow_with_the_number_of_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume_basis_module, "BYTES_PER_BLOCK", 1 << 18)
    box, peaks = 32, {}
    for count in (20, 200):
        model = MovingToy(latents(count), box)
        tracemalloc.start()
        basis = volume_basis(model, model.z)
        mask = half_maximum_mask(model.volumes(model.z))
        rows = masked_rows(basis, mask, tmp_path / f"{count}.npy", SilentMonitor())
        pca = volume_pca(gram_matrix(rows)[0], basis.sketch_weights)
        list(combined_maps(basis, pca.axes[:2], box, SilentMonitor()))
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    volume_bytes = 4 * box**3
    # Matrices of 200 x 200 numbers, but not one of the 180 further volumes, and no copy of their masked rows.
    assert peaks[200] - peaks[20] < 15 * volume_bytes
    assert model.rendered == 3 * 200


def test_coordinates_keep_the_distances_of_volumes() -> None:
    z = latents(60)
    model = LinearToy(z, BOX, n_components=7, bend=0.2)
    volumes = np.stack([model.volume(row) for row in z]).reshape(60, -1)
    found = pdist(volume_coordinates(model, z))
    np.testing.assert_allclose(found, pdist(volumes), rtol=0.05)
    assert model.rendered == 0
    focus = np.zeros((BOX, BOX, BOX), np.float32)
    focus[: BOX // 2] = 1
    masked = pdist(volumes * focus.ravel())
    np.testing.assert_allclose(
        pdist(volume_coordinates(model, z, mask=focus)), masked, rtol=0.1, atol=0.03 * masked.max()
    )


def test_volumes_without_differences_are_refused(tmp_path: Path) -> None:
    z = np.zeros((6, 3), np.float32)
    for model in (LinearToy(z, BOX), MovingToy(z, BOX)):
        basis, _, rows, _ = prepared(model, tmp_path)
        with pytest.raises(InputError, match="all sketched volumes are the same"):
            volume_pca(gram_matrix(rows)[0], basis.sketch_weights)
    with pytest.raises(InputError, match="all particles have the same volume"):
        volume_coordinates(LinearToy(z, BOX), z)
    with pytest.raises(InputError, match="no metric 'cosine'"):
        volume_distances(np.eye(2), np.ones(2), 5, np.eye(2), "cosine")
    with pytest.raises(InputError, match="constant within the mask"):
        volume_distances(np.ones((1, 1)) * 9, np.ones(1) * 9, 9, np.ones((2, 1)), "correlation")
    with pytest.raises(InputError, match="mask is empty"):
        masked_rows(basis, np.zeros((BOX, BOX, BOX), bool), tmp_path / "none.npy", SilentMonitor())

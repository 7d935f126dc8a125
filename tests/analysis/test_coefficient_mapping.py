"""Volume components from the coefficients that they need, against rendering, masking and projecting every volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cryodrgn_ext.analysis.coefficient_mapping import choose_coefficients
from cryodrgn_ext.analysis.volume_basis import gram_matrix, half_maximum_mask, masked_rows, volume_basis
from cryodrgn_ext.analysis.volume_pca import VolumePca, volume_pca
from cryodrgn_ext.engines.base import Linear, Spectral, SpectralForm
from cryodrgn_ext.engines.neural.heterogeneity import NeuralHeterogeneity
from cryodrgn_ext.engines.neural.layers import feature_frequencies
from cryodrgn_ext.engines.neural.settings import NeuralSettings, resolve
from cryodrgn_ext.engines.neural.vae import VaeModel
from cryodrgn_ext.progress import SilentMonitor
from tests.analysis.toy_engines import blob

BOX, N, ZDIM, COMPONENTS = 24, 200, 3, 4


def network(domain: str, consensus: bool) -> NeuralHeterogeneity:
    """The published architecture with random weights and the spectrum of a blurred particle."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        envelope = 60 * torch.exp(-0.8 * torch.arange(BOX // 2))
        model = VaeModel(
            ZDIM, envelope, feature_frequencies("support", BOX, 1.0, generator) * 0.5, 0, (1, 8), (2, 32), domain, 1.0
        )  # fmt: skip
    z = (0.8 * np.random.default_rng(0).normal(size=(N, ZDIM))).astype(np.float32)
    return NeuralHeterogeneity(
        model=model, recipe=resolve(NeuralSettings(architecture="vae", zdim=ZDIM), 0, N),
        box_size=BOX, pixel_size_A=3.0, train_radius=BOX // 2 - 1, n_encoder=0,
        consensus=4 * blob(BOX, (0, 0, 0), 4.0) if consensus else None, z=z, z_cov=None, loss_history={},
    )  # fmt: skip


def prepared(model: NeuralHeterogeneity, folder: Path) -> tuple[np.ndarray, np.ndarray, VolumePca, np.ndarray]:
    """Masked rows, mask and components of a sketch, and the coordinates of all volumes by brute force in float64."""
    index = np.arange(0, N, 5)
    mask = half_maximum_mask(model.volumes(model.z[index]))
    basis = volume_basis(model, model.z[index])
    rows = masked_rows(basis, mask, folder / "rows.npy", SilentMonitor())
    pca = volume_pca(gram_matrix(rows)[0], basis.sketch_weights).first(COMPONENTS)
    volumes = np.stack(list(model.volumes(model.z))).astype(np.float64)[:, mask]
    mean = volumes[index].mean(axis=0)
    eigenvolumes = pca.axes @ (volumes[index])
    return rows, mask, pca, (volumes - mean) @ eigenvolumes.T


@pytest.mark.parametrize(("domain", "consensus"), [("complex", True), ("complex", False), ("hartley", True)])
def test_few_coefficients_give_the_coordinates_to_less_than_a_percent(
    domain: str, consensus: bool, tmp_path: Path
) -> None:
    model = network(domain, consensus)
    assert isinstance(model, Spectral)
    assert not isinstance(model, Linear)
    rows, mask, pca, exact = prepared(model, tmp_path)
    form = model.spectral_form()
    few = choose_coefficients(form, rows, mask, pca, model.z)
    assert len(few.points) < 0.6 * few.n_all
    assert np.linalg.norm(few(form, model.z) - exact) < 0.01 * np.linalg.norm(exact)
    every = choose_coefficients(form, rows, mask, pca, model.z, error=0.0)
    assert len(every.points) > len(few.points)
    assert np.linalg.norm(every(form, model.z) - exact) < 1e-4 * np.linalg.norm(exact)


def test_only_the_chosen_coefficients_are_computed_and_in_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network("complex", True)
    rows, mask, pca, _ = prepared(model, tmp_path)
    form = model.spectral_form()
    found = choose_coefficients(form, rows, mask, pca, model.z)
    whole = found(form, model.z)
    asked: list[tuple[int, int]] = []

    def spectrum(z: np.ndarray, points: np.ndarray) -> np.ndarray:
        asked.append((len(z), len(points)))
        return form.spectrum(z, points)

    monkeypatch.setattr("cryodrgn_ext.analysis.coefficient_mapping.VALUES_AT_ONCE", 30 * len(found.points))
    parts = found(SpectralForm(form.mean, form.radius, spectrum), model.z)
    assert np.allclose(parts, whole, atol=1e-5 * np.abs(whole).max())
    assert {count for _, count in asked} == {len(found.points)}
    assert max(count for count, _ in asked) == 30
    assert sum(count for count, _ in asked) == N


def test_same_seed_same_choice(tmp_path: Path) -> None:
    model = network("complex", True)
    rows, mask, pca, _ = prepared(model, tmp_path)
    one, two = (choose_coefficients(model.spectral_form(), rows, mask, pca, model.z, seed=3) for _ in range(2))
    assert np.array_equal(one.points, two.points)
    assert np.array_equal(one.weights, two.weights)

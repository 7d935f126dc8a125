"""The mapping of particles to volume components, against rendering, masking and projecting each volume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cryodrgn_ext.analysis.sketch import sketch_particles
from cryodrgn_ext.analysis.volume_basis import gram_matrix, half_maximum_mask, masked_rows, volume_basis
from cryodrgn_ext.analysis.volume_mapping import learn_mapping, map_linear, map_rendered
from cryodrgn_ext.analysis.volume_pca import volume_pca
from cryodrgn_ext.engines.base import Heterogeneity, Linear
from cryodrgn_ext.engines.neural.heterogeneity import SeparableHeterogeneity
from cryodrgn_ext.engines.neural.separable import SeparableModel
from cryodrgn_ext.engines.neural.settings import NeuralSettings, resolve
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.progress import SilentMonitor
from tests.analysis.toy_engines import LinearToy, MovingToy, blob

BOX = 16
N = 200
COMPONENTS = 4


def latents(q: int = 3) -> np.ndarray:
    return (0.4 * np.random.default_rng(0).normal(size=(N, q))).astype(np.float32)


def separable() -> SeparableHeterogeneity:
    """The neural engine's own network with random weights."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        frequencies = 0.2 * torch.randn(8, 3, generator=generator)
        model = SeparableModel(3, torch.ones(BOX // 2 + 1), frequencies, 12, 1, 1.0)
        torch.nn.init.normal_(model.bend_out.weight, std=0.1)
    consensus = 4 * blob(BOX, (0, 0, 0), 3.0)
    return SeparableHeterogeneity(
        model=model, recipe=resolve(NeuralSettings(architecture="separable", zdim=3), 0, N),
        box_size=BOX, pixel_size_A=3.0, train_radius=BOX // 2 - 1, n_encoder=0,
        consensus=consensus, z=latents(), z_cov=None, loss_history={},
    )  # fmt: skip


def brute_force(model: Heterogeneity, index: np.ndarray, mask: np.ndarray, n: int) -> np.ndarray:
    """Coordinates of all volumes from a singular value decomposition of the sketched ones, in float64."""
    volumes = np.stack(list(model.volumes(model.z))).astype(np.float64)[:, mask]
    mean = volumes[index].mean(axis=0)
    _, _, axes = np.linalg.svd(volumes[index] - mean, full_matrices=False)
    return (volumes - mean) @ axes[:n].T


@pytest.mark.parametrize("make", [lambda: LinearToy(latents(), BOX),
                                  lambda: LinearToy(latents(), BOX, n_components=9, bend=0.3), separable],
                         ids=["linear", "bent", "neural separable"])  # fmt: skip
def test_direct_mapping_is_that_of_brute_force(make: Callable[[], Heterogeneity], tmp_path: Path) -> None:
    model = make()
    assert isinstance(model, LinearToy | SeparableHeterogeneity)  # which are Linear
    assert isinstance(model, Linear)
    index = sketch_particles(model.z, 40).index
    mask = half_maximum_mask(model.volumes(model.z[index]))
    basis = volume_basis(model, model.z[index])
    rows = masked_rows(basis, mask, tmp_path / "rows.npy", SilentMonitor())
    gram, _ = gram_matrix(rows)
    pca = volume_pca(gram, basis.sketch_weights).first(3)
    exact = brute_force(model, index, mask, pca.n_components)
    for mapped in (map_linear(basis, gram, pca, model.z), map_rendered(model, rows, mask, pca, model.z)):
        sign = np.sign((mapped * exact).sum(axis=0))
        assert np.linalg.norm(mapped * sign - exact) < 1e-3 * np.linalg.norm(exact)


def test_rendered_mapping_of_a_model_that_is_not_linear(tmp_path: Path) -> None:
    model = MovingToy(latents(), BOX)
    index = sketch_particles(model.z, 40).index
    mask = half_maximum_mask(model.volumes(model.z[index]))
    basis = volume_basis(model, model.z[index])
    rows = masked_rows(basis, mask, tmp_path / "rows.npy", SilentMonitor())
    pca = volume_pca(gram_matrix(rows)[0], basis.sketch_weights).first(COMPONENTS)
    exact = brute_force(model, index, mask, COMPONENTS)
    mapped = map_rendered(model, rows, mask, pca, model.z)
    sign = np.sign((mapped * exact).sum(axis=0))
    assert np.linalg.norm(mapped * sign - exact) < 1e-3 * np.linalg.norm(exact)
    with pytest.raises(ValueError, match="does not span"):
        map_linear(basis, np.eye(basis.n_rows), pca, model.z)


def curved(n: int) -> tuple[np.ndarray, np.ndarray]:
    z = np.random.default_rng(1).normal(size=(n, 3)).astype(np.float32)
    v = np.stack([5 * np.sin(z[:, 0]), z[:, 1] * z[:, 0], 0.3 * z[:, 2] ** 2], axis=1) * 100 + 7
    return z, v


def test_learned_mapping_predicts_particles_that_it_has_not_seen() -> None:
    z, v = curved(3000)
    phi = learn_mapping(z[:2000], v[:2000], seed=1)
    error = ((phi(z[2000:]) - v[2000:]) ** 2).sum() / ((v[2000:] - v[2000:].mean(axis=0)) ** 2).sum()
    assert phi.error < 0.05
    assert error == pytest.approx(phi.error, rel=1.0)
    assert len(phi.held_out_loss) == len(phi.train_loss) == 50
    assert phi.held_out_loss[0] > 3 * phi.error


def test_held_out_loss_tells_when_there_is_nothing_to_learn() -> None:
    rng = np.random.default_rng(2)
    phi = learn_mapping(rng.normal(size=(400, 3)).astype(np.float32), rng.normal(size=(400, 2)), epochs=15)
    assert phi.error > 0.9


def test_same_seed_same_mapping() -> None:
    z, v = curved(200)
    first, second = (learn_mapping(z, v, seed=5, epochs=3) for _ in range(2))
    assert np.array_equal(first(z), second(z))
    with pytest.raises(InputError, match="at least 16 volumes"):
        learn_mapping(z[:5], v[:5])

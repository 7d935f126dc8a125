"""Discrete states: complete functions, honest places and posteriors, and states found where no curve can be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from cryodrgn_ext.engines.base import load_heterogeneity
from cryodrgn_ext.engines.subspace import states_fit
from cryodrgn_ext.engines.subspace.cells import Cells, ImageTerms
from cryodrgn_ext.engines.subspace.engine import train
from cryodrgn_ext.engines.subspace.features import Nodes
from cryodrgn_ext.engines.subspace.grid import ComponentGrid, padded
from cryodrgn_ext.engines.subspace.heterogeneity import SubspaceHeterogeneity
from cryodrgn_ext.engines.subspace.settings import SubspaceSettings
from cryodrgn_ext.engines.subspace.states import States, places
from cryodrgn_ext.engines.subspace.states_fit import StatesFit, starting_nodes
from tests.engines.contexts import context
from tests.engines.linear_set import StateSet, make_state_set
from tests.monitors import RecordingMonitor

SHARE = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)


def four() -> States:
    return States.at(Nodes(torch.randn(4, 2, generator=torch.Generator().manual_seed(0)).double(), SHARE))


def test_functions_of_states_are_orthogonal_and_complete() -> None:
    table = four().at_nodes()
    torch.testing.assert_close((table * SHARE[:, None]).T @ table, torch.eye(4).double(), atol=1e-10, rtol=0)


def test_distances_of_places_are_those_of_volumes() -> None:
    states, grid = four(), ComponentGrid(12, 4)
    values = torch.zeros(grid.n_voxels, 2, padded(4))
    values[..., :4] = torch.randn(grid.n_voxels, 2, 4, generator=torch.Generator().manual_seed(1))
    maps = np.stack([grid.to_map(values[..., j].contiguous()).numpy().ravel() for j in range(4)])
    volumes = states.at_nodes().numpy() @ maps
    found = places(states, SHARE, values, grid, 5).numpy()
    expected = np.linalg.norm(volumes[:, None] - volumes[None], axis=2)[np.triu_indices(4, 1)]
    got = np.linalg.norm(found[:, None] - found[None], axis=2)[np.triu_indices(4, 1)]
    # Off the axes interpolation correction weighs real space differently from the sphere of coefficients.
    assert np.corrcoef(got, expected)[0, 1] > 0.95
    np.testing.assert_allclose(SHARE.numpy() @ found, 0, atol=1e-12)
    assert float(SHARE.numpy() @ found[:, 0] ** 2) == pytest.approx(1)
    assert not found[:, 3:].any()  # four states fill three dimensions


@pytest.mark.parametrize("spread", [0.0, 0.15])
def test_posterior_over_states_is_bayes_rule(spread: float) -> None:
    generator = torch.Generator().manual_seed(3)
    states = four()
    model, image = 0.2 * torch.randn(30, 4, generator=generator).double(), torch.randn(30, generator=generator).double()
    inner, cross = (model.mT @ model)[None], (model.mT @ image)[None]
    found = Cells(states).posterior(ImageTerms.split(inner, cross, 4, torch.zeros(1, 0)), SHARE, spread)
    predicted = (states.at_nodes() @ model.T).numpy()  # noise of variance 1 / 2
    scales = np.linspace(-1, 3, 4001) if spread else np.ones(1)
    prior = np.exp(-0.5 * ((scales - 1) / spread) ** 2) if spread else np.ones(1)
    error = np.square(image.numpy()) - np.square(image.numpy() - scales[:, None, None] * predicted)
    likelihood = prior / prior.sum() @ np.exp(error.sum(2)) * SHARE.numpy()
    probability, centres = likelihood / likelihood.sum(), states.nodes.centres.numpy()
    assert float(found.evidence) == pytest.approx(np.log(likelihood.sum()), abs=1e-6)
    np.testing.assert_allclose(found.mean[0], probability @ centres, atol=1e-6)
    offset = centres - probability @ centres
    np.testing.assert_allclose(found.covariance[0], (probability[:, None] * offset).T @ offset, atol=1e-6)
    table = states.at_nodes().numpy()
    np.testing.assert_allclose(found.moments[0], (probability[:, None] * table).T @ table, atol=1e-5)


def test_weights_at_a_latent_are_those_of_states_with_that_mean() -> None:
    states = four()
    centres = states.nodes.centres
    tilt = torch.tensor([[0.0, 0.0], [0.7, -0.4], [3.0, 1.0]]).double()
    probability = torch.softmax(SHARE.log() + tilt @ centres.T, 1)
    found = states.weights(probability @ centres, SHARE)
    assert states.weights(torch.zeros(0, 2), SHARE).shape == (0, found.shape[1])
    torch.testing.assert_close(found, probability @ states.at_nodes(), atol=0.01, rtol=0)
    outside = states.weights(torch.tensor([[50.0, 0.0], [50.0, 1e-4]]), SHARE) @ torch.linalg.inv(states.at_nodes())
    assert outside.min() > -1e-9  # shares of states even there, and next to each other alike
    torch.testing.assert_close(outside[0], outside[1], atol=1e-3, rtol=0)


def test_starting_places_are_where_the_shares_are() -> None:
    centres = torch.linspace(0, 1, 40)[:, None].double()
    share = torch.full((40,), 1e-9).double()
    share[[5, 6, 20, 33]] = torch.tensor([0.2, 0.2, 0.3, 0.3]).double()
    found = starting_nodes(centres, share / share.sum(), 3, 0)
    order = found.centres[:, 0].argsort()
    torch.testing.assert_close(found.centres[order, 0], centres[[5, 20, 33], 0], atol=0.02, rtol=0)
    torch.testing.assert_close(found.weight[order], torch.tensor([0.4, 0.3, 0.3]).double(), atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def state_set() -> StateSet:
    return make_state_set(480, 0.2, 8)  # more structures than a curve over two components can be


Everything = dict[str, torch.Tensor]


def everything(fit: StatesFit) -> Everything:
    """Model and latents."""
    numbers, tensors = fit.state(sum(len(half.rows) for half in fit.halves))
    plain = {name: torch.tensor(float(value)) for name, value in numbers.items()}
    found = {**plain, **tensors, "centres": fit.cells.centres}
    return {name: tensor.clone() for name, tensor in found.items()}


@pytest.fixture(scope="module")
def undone() -> list[tuple[Everything, Everything]]:
    """What was there before and after divisions of states that no image gains enough by."""
    return []


@pytest.fixture(scope="module")
def fitted(
    state_set: StateSet, undone: list[tuple[Everything, Everything]]
) -> tuple[SubspaceHeterogeneity, list[str]]:  # fmt: skip
    monitor = RecordingMonitor()
    settings = SubspaceSettings(zdim=2, rare_states=0)
    divide = StatesFit._divide

    def in_vain_first(fit: StatesFit, number: int) -> bool:
        before, divided = everything(fit), set(fit.divided)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(states_fit, "SURE", float("inf"))
            patch.setattr(StatesFit, "_missed_by_nobody", lambda self: self.share.argsort()[:2])
            assert not divide(fit, number)
        undone.append((before, everything(fit)))
        fit.divided = divided
        return divide(fit, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StatesFit, "_divide", in_vain_first)
        model = train(state_set.images, state_set.average_map, settings, context(monitor=monitor))
    return model, monitor.lines


def nearest(model: SubspaceHeterogeneity) -> np.ndarray:
    centres = model.features.nodes.centres.numpy()
    return np.linalg.norm(model.z[:, None, list(model.columns_used)] - centres, axis=2).argmin(1)


def test_unrelated_structures_are_found_as_states(
    state_set: StateSet, fitted: tuple[SubspaceHeterogeneity, list[str]]
) -> None:
    model, messages = fitted
    assert isinstance(model.features, States)
    assert any("discrete states" in message for message in messages)
    assert adjusted_rand_score(state_set.state, nearest(model)) > 0.35  # single images do not tell more


@pytest.mark.usefixtures("fitted")
def test_a_division_that_is_undone_leaves_latents_and_volumes(undone: list[tuple[Everything, Everything]]) -> None:
    assert undone
    for before, after in undone:
        assert before.keys() == after.keys()
        for name, tensor in before.items():
            assert torch.equal(tensor, after[name]), name


def test_volumes_of_states_are_nearer_to_the_true_structures(
    state_set: StateSet, fitted: tuple[SubspaceHeterogeneity, list[str]]
) -> None:
    model, _ = fitted
    label = nearest(model)
    ratios = []
    for k, truth in enumerate(state_set.state_maps):
        most = np.bincount(label[state_set.state == k]).argmax()
        z = np.zeros((1, model.z.shape[1]), np.float32)
        z[0, list(model.columns_used)] = model.features.nodes.centres[most].numpy()
        (volume,) = model.volumes(z)
        ratios.append(np.linalg.norm(volume - truth) / np.linalg.norm(state_set.average_map - truth))
    assert np.mean(ratios) < 0.9
    assert min(ratios) < 0.6


def test_a_model_of_states_comes_back_from_its_files(
    fitted: tuple[SubspaceHeterogeneity, list[str]], tmp_path: Path
) -> None:
    model, _ = fitted
    model.save(tmp_path)
    again = load_heterogeneity(tmp_path)
    for one, two in zip(model.volumes(model.z[:3]), again.volumes(model.z[:3]), strict=True):
        assert np.array_equal(one, two)

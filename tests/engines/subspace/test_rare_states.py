"""States of few particles: found where they are, not where they are not, and kept through files and restarts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cryodrgn_ext.analysis.volume_basis import rare_region
from cryodrgn_ext.engines.base import Regions, load_heterogeneity
from cryodrgn_ext.engines.distributed import join
from cryodrgn_ext.engines.subspace.engine import train
from cryodrgn_ext.engines.subspace.heterogeneity import SubspaceHeterogeneity
from cryodrgn_ext.engines.subspace.posterior import infer
from cryodrgn_ext.engines.subspace.rare_posterior import (
    RareStates,
    compare,
    continuous_gain,
    infer_mixture,
    log_ratio,
    share_of,
    shifted,
)
from cryodrgn_ext.engines.subspace.settings import SubspaceSettings
from cryodrgn_ext.errors import JobAborted
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.coefficient_source import ResidentCoefficients
from tests.engines.contexts import context
from tests.engines.linear_set import BOX, LinearSet, make_linear_set
from tests.engines.processes import run_group
from tests.monitors import RecordingMonitor

N, MEMBERS, ZDIM = 1200, 24, 3
SETTINGS = SubspaceSettings(zdim=ZDIM, curve_features=6)


@dataclass(frozen=True)
class RareSet:
    """Images of a linear mode, some with one more ball of density."""

    data: LinearSet
    member: np.ndarray
    added: np.ndarray


def ball(place: tuple[int, int, int], sign: float) -> np.ndarray:
    axis = np.arange(BOX) - BOX // 2
    x, y, z = place
    square = (axis[:, None, None] - z) ** 2 + (axis[:, None] - y) ** 2 + (axis - x) ** 2
    return (sign * 0.08 * np.exp(-square / 8)).astype(np.float32)


def make_rare_set(sign: float = 1.0, members: int = MEMBERS) -> RareSet:
    data = make_linear_set(N, 0.07, seed=3)
    images, rows = data.images, torch.arange(N)
    member = np.zeros(N, bool)
    member[np.random.default_rng(0).permutation(N)[:members]] = True
    added = ball((-6, 2, -5), sign)
    batch = images.batch(rows)
    more = batch.ctf * FourierVolume.from_map(torch.from_numpy(added), radius=16).slice(batch.points)
    values = batch.coefficients + more * torch.from_numpy(member)[:, None]
    source = ResidentCoefficients(torch.view_as_real(values.contiguous()), rows)
    images = replace(images, source=source, shift_px=torch.zeros(N, 2))
    return RareSet(replace(data, images=images), member, added)


@pytest.fixture(scope="module")
def rare_set() -> RareSet:
    return make_rare_set()


def fit(data: LinearSet, folder: Path | None = None, settings: SubspaceSettings = SETTINGS, **more: Any) -> Any:
    return train(data.images, data.base_map, settings, context(folder), **more)


@pytest.fixture(scope="module")
def fitted(rare_set: RareSet) -> SubspaceHeterogeneity:
    model: SubspaceHeterogeneity = fit(rare_set.data)
    return model


def test_the_images_hold_what_is_asked_of_them(rare_set: RareSet) -> None:
    """Separation of the log likelihoods, when everything but the ball is known: about six standard deviations."""
    batch = rare_set.data.images.batch(torch.from_numpy(np.flatnonzero(rare_set.member)))
    more = batch.ctf * FourierVolume.from_map(torch.from_numpy(rare_set.added), radius=16).slice(batch.points)
    separation = (2 * more.abs().square().sum(1)).sqrt()
    assert 4 < float(separation.mean()) < 12


def test_the_state_has_a_column_that_tells_its_images(rare_set: RareSet, fitted: SubspaceHeterogeneity) -> None:
    assert len(fitted.rare) == 1
    assert fitted.z.shape == (N, ZDIM)
    probability = fitted.z[:, fitted.rare[0]] / fitted.rare_scale[0]
    assert probability.min() >= 0
    assert probability.max() <= 1 + 1e-5
    assert (probability[rare_set.member] > 0.5).mean() > 0.9
    assert (probability[~rare_set.member] > 0.5).sum() <= 3
    assert fitted.rare[0] not in fitted.columns_used


def test_its_volume_has_the_density_and_no_other_does(rare_set: RareSet, fitted: SubspaceHeterogeneity) -> None:
    z = np.zeros((2, ZDIM), np.float32)
    z[1, fitted.rare[0]] = fitted.rare_scale[0]
    without, with_state = fitted.volumes(z)
    alone = fitted.single_volume(z[1])  # in another way
    np.testing.assert_allclose(alone, with_state, atol=1e-5 * np.abs(with_state).max())
    assert np.corrcoef((with_state - without).ravel(), rare_set.added.ravel())[0, 1] > 0.8
    form = fitted.linear_form()
    assert form.n_components == fitted.features.count + 1
    weights = form.weights(z)
    assert weights[:, -1].tolist() == [0, 1]
    maps = np.stack(list(form.components()))
    assert np.allclose(form.mean + np.tensordot(weights[1], maps, 1), with_state, atol=1e-5)
    assert form.weights(3 * z)[1, -1] == 1.0  # no more than all of it
    assert form.rare == (form.n_components - 1,)
    region = rare_region(fitted)
    assert region is not None
    core = rare_set.added > 0.7 * rare_set.added.max()
    assert region[core].mean() > 0.8
    assert region.mean() < 0.05


def test_latents_lie_at_distances_in_proportion_to_volumes(
    rare_set: RareSet, fitted: SubspaceHeterogeneity
) -> None:  # fmt: skip
    """A unit along the strongest column and the whole of the state differ by volumes in the same proportion."""
    mode = float(np.linalg.norm(rare_set.data.mode_map))  # of unit variance, as the first column is
    expected = float(np.linalg.norm(rare_set.added)) / mode
    assert fitted.rare_scale[0] == pytest.approx(expected, rel=0.5)


def test_density_that_few_images_lack_is_found(rare_set: RareSet) -> None:
    lacking = make_rare_set(-1.0)
    model = fit(lacking.data)
    assert len(model.rare) == 1
    assert (model.z[lacking.member, model.rare[0]] > 0.5 * model.rare_scale[0]).mean() > 0.9


def test_without_a_rare_state_none_is_found() -> None:
    plain = make_rare_set(members=0)
    assert fit(plain.data).rare == ()


def test_it_is_not_looked_for_where_it_is_not_wanted(rare_set: RareSet) -> None:
    assert fit(rare_set.data, settings=replace(SETTINGS, rare_states=0)).rare == ()
    focus = np.broadcast_to(1 / (1 + np.exp(-(np.arange(BOX) - BOX // 2.0))), (BOX,) * 3).astype(np.float32)
    assert fit(rare_set.data, regions=Regions(focus=focus)).rare == ()


def test_files_and_continued_runs_keep_it(
    rare_set: RareSet, fitted: SubspaceHeterogeneity, tmp_path: Path
) -> None:  # fmt: skip
    (tmp_path / "model").mkdir()
    fitted.save(tmp_path / "model")
    loaded = load_heterogeneity(tmp_path / "model")
    assert isinstance(loaded, SubspaceHeterogeneity)
    assert (loaded.rare, loaded.rare_scale) == (fitted.rare, fitted.rare_scale)
    watch = RecordingMonitor()
    train(rare_set.data.images, rare_set.data.base_map, SETTINGS, context(None, watch))
    late = RecordingMonitor(polls=watch.polled - 1)
    with pytest.raises(JobAborted):
        train(rare_set.data.images, rare_set.data.base_map, SETTINGS, context(tmp_path, late))
    again = fit(rare_set.data, tmp_path)
    assert np.array_equal(again.z, fitted.z)
    assert torch.equal(again.values, fitted.values)


def train_together(folder: str) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    with join() as group:
        model = fit(make_rare_set().data)
        mine = Path(folder) / str(group.rank)
        mine.mkdir()
        model.save(mine)


@pytest.mark.slow
def test_two_processes_find_the_same(fitted: SubspaceHeterogeneity, tmp_path: Path) -> None:
    ends = run_group("tests.engines.subspace.test_rare_states:train_together", 2, str(tmp_path))
    assert [end.returncode for end in ends] == [0, 0], ends
    for rank in ("0", "1"):
        together = load_heterogeneity(tmp_path / rank)
        assert isinstance(together, SubspaceHeterogeneity)
        assert together.rare == fitted.rare
        assert np.abs(together.z - fitted.z).max() < 1e-3 * np.abs(fitted.z).max()


# What the search is made of -------------------------------------------------------------------------------------------


def random_problem(n: int = 5, q: int = 3, k: int = 2, m: int = 40) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Inner products of q + k model terms of n images, the cross terms, and the terms with the data as real vectors."""
    rng = np.random.default_rng(0)
    terms, data = rng.normal(size=(n, m, q + k)), rng.normal(size=(n, m))
    inner, cross = np.einsum("nmi,nmj->nij", terms, terms), np.einsum("nmi,nm->ni", terms, data)
    return torch.from_numpy(inner), torch.from_numpy(cross), np.concatenate([terms, data[..., None]], axis=2)


def test_shifted_products_are_those_of_the_sum() -> None:
    inner, cross, terms = random_problem()
    terms = terms.copy()
    terms[:, :, 0] += 0.7 * terms[:, :, 4]
    expected = np.einsum("nmi,nmj->nij", terms[..., :3], terms[..., :3])
    got_inner, got_cross = shifted(inner, cross, 3, 4, 0.7)
    assert np.allclose(got_inner, expected)
    assert np.allclose(got_cross, np.einsum("nmi,nm->ni", terms[..., :3], terms[..., -1]))


def test_the_log_likelihood_is_quadratic_in_the_amount() -> None:
    inner, cross, _ = random_problem()
    common = infer(inner[:, :3, :3], cross[:, :3])
    score, sharpness, _ = compare(inner, cross, 3, 3, common, False)
    for amount in (-0.4, 0.3, 1.0):
        exact = infer(*shifted(inner, cross, 3, 3, amount)).evidence - common.evidence
        assert torch.allclose(exact, amount * score * sharpness - 0.5 * (amount * sharpness) ** 2)


def test_probabilities_are_bayes_and_moments_those_of_the_mixture() -> None:
    inner, cross, _ = random_problem()
    share = torch.tensor([0.2, 0.1], dtype=torch.float64)
    none, one = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    states = RareStates(torch.zeros(1, 2, 2), share, none, one)
    posterior, probability = infer_mixture(inner, cross, 3, states, False)
    each = [infer(inner[:, :3, :3], cross[:, :3]), *(infer(*shifted(inner, cross, 3, 3 + k, 1.0)) for k in (0, 1))]
    logs = torch.stack([e.evidence for e in each], 1) + torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64).log()
    expected = torch.softmax(logs, 1)
    assert torch.allclose(probability, expected[:, 1:])
    mean = torch.stack([expected[:, k, None] * each[k].mean for k in range(3)]).sum(0)
    second = torch.stack([
        expected[:, k, None, None] * (each[k].covariance + each[k].mean[:, :, None] * each[k].mean[:, None])
        for k in range(3)
    ]).sum(0)  # fmt: skip
    assert torch.allclose(posterior.mean, mean)
    assert torch.allclose(posterior.covariance, second - mean[:, :, None] * mean[:, None])


def test_a_mixture_gains_more_than_varying_amounts_where_there_is_one_and_less_where_not() -> None:
    rng = np.random.default_rng(0)
    sharpness = torch.from_numpy(rng.uniform(5, 8, 10_000))
    noise = torch.from_numpy(rng.normal(size=10_000))
    rare = noise + sharpness * torch.from_numpy(rng.uniform(size=10_000) < 0.004)
    varying = noise + 0.3 * sharpness * torch.from_numpy(rng.normal(size=10_000))
    gains = []
    for score in (noise, rare, varying):
        share, gain = share_of(log_ratio(score, sharpness, 0.0, 1.0), 0.05)
        gains.append((share, gain, continuous_gain(score, sharpness, 0.0, 1.0)))
    assert gains[0][1] < 3
    assert gains[1][0] == pytest.approx(0.004, rel=0.4)
    assert gains[1][1] > gains[1][2] + 100
    assert gains[2][2] > gains[2][1]

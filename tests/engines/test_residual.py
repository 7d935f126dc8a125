"""The network's part on top of the subspace engine's volumes: what these lack is added, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryodrgn_ext.engines.base import Linear, load_heterogeneity
from cryodrgn_ext.engines.distributed import join
from cryodrgn_ext.engines.held_out import Weighed
from cryodrgn_ext.engines.neural.base_volumes import LinearBase
from cryodrgn_ext.engines.neural.engine import train
from cryodrgn_ext.engines.neural.layers import feature_frequencies
from cryodrgn_ext.engines.neural.model import Observation
from cryodrgn_ext.engines.neural.residual import ResidualModel
from cryodrgn_ext.engines.neural.residual_heterogeneity import ResidualHeterogeneity
from cryodrgn_ext.engines.neural.residual_run import split_rows
from cryodrgn_ext.engines.neural.settings import NeuralSettings
from cryodrgn_ext.engines.subspace.engine import train as train_subspace
from cryodrgn_ext.engines.subspace.heterogeneity import SubspaceHeterogeneity
from cryodrgn_ext.engines.subspace.settings import SubspaceSettings
from cryodrgn_ext.errors import InputError, JobAborted
from cryodrgn_ext.fourier.slices import FourierVolume
from tests.engines.contexts import context
from tests.engines.linear_set import LinearSet, correlation, make_linear_set
from tests.engines.processes import run_group
from tests.engines.subspace.test_halves import homogeneous
from tests.monitors import RecordingMonitor

QUICK = NeuralSettings(zdim=2, curve_features=6, epochs=8, batch=16, dec_dim=32, precision="float32")
SHARE = 0.3  # of the motion, in the volumes of the weak base


def weakened(base: SubspaceHeterogeneity) -> SubspaceHeterogeneity:
    """The same latents, and volumes that move by a part only."""
    factor = torch.full((base.values.shape[2],), SHARE)
    factor[0] = 1.0
    return replace(base, values=base.values * factor)


@pytest.fixture(scope="module")
def base(linear_set: LinearSet) -> SubspaceHeterogeneity:
    return train_subspace(linear_set.images, linear_set.base_map, SubspaceSettings(zdim=2, curve_features=6), context())


def fit(
    data: LinearSet, start: SubspaceHeterogeneity, folder: Path | None = None, settings: NeuralSettings = QUICK
) -> ResidualHeterogeneity:
    result = train(data.images, data.base_map, settings, context(folder), start=start)
    assert isinstance(result, ResidualHeterogeneity)
    return result


@pytest.fixture(scope="module")
def added(linear_set: LinearSet, base: SubspaceHeterogeneity) -> ResidualHeterogeneity:
    return fit(linear_set, weakened(base))


def motion(model: SubspaceHeterogeneity | ResidualHeterogeneity, data: LinearSet) -> np.ndarray:
    """How volumes differ between the ends of the true coordinate, per unit of it."""
    high, low = data.y > 1, data.y < -1
    upper, lower = model.volumes(np.stack([model.z[high].mean(0), model.z[low].mean(0)]))
    return (upper - lower) / (data.y[high].mean() - data.y[low].mean())


def test_what_the_volumes_lack_is_learned(
    linear_set: LinearSet, base: SubspaceHeterogeneity, added: ResidualHeterogeneity
) -> None:
    before, after = (np.linalg.norm(motion(m, linear_set) - linear_set.mode_map) for m in (weakened(base), added))
    assert after < 0.7 * before
    assert correlation(motion(added, linear_set), linear_set.mode_map) > 0.8


def test_claims_rest_on_the_gain_by_the_base(base: SubspaceHeterogeneity, added: ResidualHeterogeneity) -> None:
    assert isinstance(added, Weighed)
    assert dict(added.held_out) == dict(base.held_out)


def test_images_that_judge_are_not_learned_from() -> None:
    learned, held = split_rows(600, 0)
    assert sorted([*learned.tolist(), *held.tolist()]) == list(range(600))
    assert len(held) == 60


def error_of_volumes(model: SubspaceHeterogeneity | ResidualHeterogeneity, data: LinearSet) -> float:
    truth = data.base_map + data.y[:40, None, None, None] * data.mode_map
    found = np.stack(list(model.volumes(model.z[:40])))
    return float(np.square(found - truth).sum())


def test_from_nothing_the_subspace_runs_first_and_volumes_become_better() -> None:
    data, said = make_linear_set(1500, 0.07), RecordingMonitor()
    result = train(data.images, data.base_map, replace(QUICK, epochs=4), context(None, said))
    assert isinstance(result, ResidualHeterogeneity)
    assert any("not trained on gain" in line for line in said.lines)
    assert error_of_volumes(result, data) < error_of_volumes(result.base, data)


def test_where_there_is_nothing_to_learn_nothing_is_added(linear_set: LinearSet) -> None:
    data, said = homogeneous(linear_set), RecordingMonitor()
    result = train(data.images, data.base_map, QUICK, context(None, said))
    assert isinstance(result, SubspaceHeterogeneity)
    assert any("left out" in line for line in said.lines)


def test_a_saved_model_gives_the_same_volumes(added: ResidualHeterogeneity, tmp_path: Path) -> None:
    added.save(tmp_path)
    loaded = load_heterogeneity(tmp_path)
    assert isinstance(loaded, ResidualHeterogeneity)
    assert np.array_equal(loaded.z, added.z)
    for before, after in zip(added.volumes(added.z[:2]), loaded.volumes(added.z[:2]), strict=True):
        assert np.array_equal(before, after)
    assert dict(loaded.held_out) == dict(added.held_out)


def test_the_linear_form_gives_the_same_volumes(added: ResidualHeterogeneity) -> None:
    assert isinstance(added, Linear)
    form, z = added.linear_form(), added.z[:3]
    maps = np.stack(list(form.components()))
    assert len(maps) == form.n_components
    for row, volume in zip(form.weights(z), added.volumes(z), strict=True):
        assert np.allclose(form.mean + np.tensordot(row, maps, 1), volume, atol=1e-4 * np.abs(volume).max())


def test_sections_of_the_base_are_those_of_its_volumes(base: SubspaceHeterogeneity) -> None:
    linear = LinearBase.of(base.linear_form(), base.z, 12, torch.device("cpu"))
    rows = torch.tensor([5, 17])
    points = 4 * torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    for found, volume, where in zip(linear.slices(rows, points), base.volumes(base.z[rows.numpy()]), points,
                                    strict=True):  # fmt: skip
        wanted = FourierVolume.from_map(torch.from_numpy(volume), radius=12).slice(where)
        assert (found - wanted).abs().max() < 1e-3 * wanted.abs().max()


def test_sums_by_shell_tell_the_likelihood_at_any_factor() -> None:
    torch.manual_seed(0)
    model = ResidualModel(3, torch.ones(9), feature_frequencies("support", 32, 0.5, torch.Generator()), 8, 1)
    torch.nn.init.normal_(model.bend_out.weight, std=0.3)
    shell = torch.arange(40) % 8
    inputs = torch.randn(5, 3)
    observation = Observation(
        torch.randn(5, 40, dtype=torch.complex64), torch.randn(5, 40), 2 * torch.randn(5, 40, 3), shell,
        torch.ones(40), 40, inputs,
    )  # fmt: skip
    factor = torch.rand(9, dtype=torch.float64)
    sums = model.shell_sums(observation, 9)
    told = (2 * factor * sums[:, 0] - factor**2 * sums[:, 1]).sum(1)
    for b in range(5):
        section = model.spectrum(observation.points[b], inputs[b : b + 1])[0] * observation.whitened_ctf[b]
        rest = observation.values[b] - factor[shell] * section
        direct = observation.values[b].abs().square().sum() - rest.abs().square().sum()
        assert float(told[b]) == pytest.approx(float(direct), rel=1e-4, abs=1e-3)


def test_a_continued_run_equals_an_uninterrupted_one(
    linear_set: LinearSet, base: SubspaceHeterogeneity, added: ResidualHeterogeneity, tmp_path: Path
) -> None:
    with pytest.raises(JobAborted):
        train(linear_set.images, linear_set.base_map, QUICK, context(tmp_path, RecordingMonitor(steps=40)),
              start=weakened(base))  # fmt: skip
    resumed = fit(linear_set, weakened(base), tmp_path)
    for name, tensor in added.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_another_engines_result_is_refused(linear_set: LinearSet) -> None:
    settings = replace(QUICK, architecture="separable", epochs=1)
    other = train(linear_set.images, linear_set.base_map, settings, context())
    with pytest.raises(InputError, match="subspace engine's result"):
        train(linear_set.images, linear_set.base_map, QUICK, context(), start=other)


BRIEF = replace(QUICK, epochs=3)  # rounding grows with every step


def train_as_group(folder: str) -> None:
    data = make_linear_set(400, 0.07)
    first = load_heterogeneity(Path(folder))
    assert isinstance(first, SubspaceHeterogeneity)
    with join() as group:
        result = fit(data, first, settings=BRIEF)
        volume = np.stack(list(result.volumes(result.z[:3])))
        np.savez(Path(folder) / f"{group.rank}.npz", volume=volume, loss=result.loss_history["total"])


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(tmp_path: Path) -> None:
    data = make_linear_set(400, 0.07)
    settings = SubspaceSettings(zdim=2, curve_features=6)
    start = weakened(train_subspace(data.images, data.base_map, settings, context()))
    start.save(tmp_path)
    ends = run_group("tests.engines.test_residual:train_as_group", 2, str(tmp_path))
    assert [end.returncode for end in ends] == [0, 0], ends
    alone = fit(data, start, settings=BRIEF)
    volume = np.stack(list(alone.volumes(alone.z[:3])))
    for rank in range(2):
        with np.load(tmp_path / f"{rank}.npz") as shared:
            assert np.abs(shared["volume"] - volume).max() < 1e-3 * np.abs(volume).max()
            assert np.allclose(shared["loss"], alone.loss_history["total"], rtol=1e-4)

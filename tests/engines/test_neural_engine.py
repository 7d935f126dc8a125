"""The neural engine as jobs use it: it finds the truth, resumes exactly, and comes back from disk."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from cryodrgn_ext.engines.base import Linear, get_engine, load_heterogeneity
from cryodrgn_ext.engines.distributed import join
from cryodrgn_ext.engines.neural import prefetch, warm_start
from cryodrgn_ext.engines.neural.engine import train
from cryodrgn_ext.engines.neural.heterogeneity import NeuralHeterogeneity
from cryodrgn_ext.engines.neural.order import visiting_order
from cryodrgn_ext.engines.neural.settings import NeuralSettings, resolve
from cryodrgn_ext.engines.neural.warm_start import WarmStart
from cryodrgn_ext.errors import InputError, JobAborted, ResumeError
from cryodrgn_ext.images.coefficient_source import SubsetCoefficients
from cryodrgn_ext.images.store import StoredCoefficients
from cryodrgn_ext.progress import Monitor
from tests.devices import DEVICES
from tests.engines.contexts import context
from tests.engines.linear_set import LinearSet, correlation, make_linear_set
from tests.engines.processes import run_group
from tests.monitors import RecordingMonitor

QUICK = NeuralSettings(zdim=2, epochs=3, batch=16, precision="float32", architecture="separable")


def fit(
    data: LinearSet, settings: NeuralSettings = QUICK, folder: Path | None = None, seed: int = 0, device: str = "cpu"
) -> NeuralHeterogeneity:
    result = train(data.images, data.base_map, settings, context(folder, seed=seed, device=device))
    assert isinstance(result, NeuralHeterogeneity)
    return result


@pytest.fixture(scope="module")
def fitted(linear_set: LinearSet) -> NeuralHeterogeneity:
    return fit(linear_set)


@pytest.fixture(scope="module", params=DEVICES)
def fitted_there(request: pytest.FixtureRequest, linear_set: LinearSet, fitted: NeuralHeterogeneity
                 ) -> NeuralHeterogeneity:  # fmt: skip
    """A model trained on each device of this machine."""
    return fitted if request.param == "cpu" else fit(linear_set, device=request.param)


def test_latents_tell_the_true_coordinate(linear_set: LinearSet, fitted_there: NeuralHeterogeneity) -> None:
    design = np.column_stack([fitted_there.z, np.ones(len(fitted_there.z))])
    half = len(design) // 2
    coefficients, *_ = np.linalg.lstsq(design[:half], linear_set.y[:half], rcond=None)
    assert abs(spearmanr(design[half:] @ coefficients, linear_set.y[half:])[0]) > 0.9


def test_volumes_move_along_the_true_mode(linear_set: LinearSet, fitted_there: NeuralHeterogeneity) -> None:
    high = fitted_there.z[linear_set.y > 1].mean(0)
    low = fitted_there.z[linear_set.y < -1].mean(0)
    upper, lower = fitted_there.volumes(np.stack([high, low]))
    assert correlation(upper - lower, linear_set.mode_map) > 0.8
    assert correlation(upper + lower, linear_set.base_map) > 0.95


def test_loss_falls(fitted: NeuralHeterogeneity) -> None:
    total = fitted.loss_history["total"]
    assert len(total) == 3
    assert total[-1] < total[0]


def test_posterior_covariance_covers_the_error(linear_set: LinearSet, fitted_there: NeuralHeterogeneity) -> None:
    """The spread of the estimates about the truth agrees with the posterior's own width (within a factor)."""
    assert fitted_there.z_cov is not None
    design = np.column_stack([fitted_there.z, np.ones(len(fitted_there.z))])
    coefficients, *_ = np.linalg.lstsq(design, linear_set.y, rcond=None)
    error = (design @ coefficients - linear_set.y).std()
    predicted = np.sqrt(np.einsum("i,nij,j->n", coefficients[:2], fitted_there.z_cov, coefficients[:2]).mean())
    assert 0.3 < predicted / error < 3


def test_same_seed_same_result_other_seed_other_result(linear_set: LinearSet, fitted: NeuralHeterogeneity) -> None:
    again = fit(linear_set)
    assert np.array_equal(again.z, fitted.z)
    other = fit(linear_set, seed=1)
    assert not np.array_equal(other.z, fitted.z)


def test_saved_model_gives_the_same_volumes(fitted: NeuralHeterogeneity, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    loaded = load_heterogeneity(tmp_path)
    z = fitted.z[:2]
    for before, after in zip(fitted.volumes(z), loaded.volumes(z), strict=True):
        assert np.array_equal(before, after)
    assert np.array_equal(loaded.z, fitted.z)
    assert loaded.loss_history == fitted.loss_history


def test_linear_form_gives_the_same_volumes(fitted: NeuralHeterogeneity) -> None:
    assert isinstance(fitted, Linear)
    form = fitted.linear_form()
    z = fitted.z[:3]
    weights = form.weights(z)
    assert weights.shape == (3, form.n_components)
    maps = np.stack(list(form.components()))
    assert maps.shape == (form.n_components, 32, 32, 32)
    for row, volume in zip(weights, fitted.volumes(z), strict=True):
        assert np.allclose(form.mean + np.tensordot(row, maps, 1), volume, atol=1e-4 * np.abs(volume).max())


def test_a_vae_has_no_linear_form(linear_set: LinearSet) -> None:
    result = fit(linear_set, replace(QUICK, epochs=1, architecture="vae", enc_dim=16, dec_dim=16))
    assert not isinstance(result, Linear)


def test_latents_in_a_table_tell_the_true_coordinate(linear_set: LinearSet) -> None:
    settings = replace(
        QUICK, zdim=1, epochs=10, architecture="vae", latents="table", dec_dim=64, learning_rate=3e-3, latent_steps=3
    )
    result = fit(linear_set, settings)
    assert abs(spearmanr(result.z[:, 0], linear_set.y)[0]) > 0.7


def test_refined_latents_are_better_than_the_encoders(linear_set: LinearSet, tmp_path: Path) -> None:
    settings = replace(QUICK, zdim=1, epochs=10, architecture="vae", enc_dim=64, dec_dim=64, learning_rate=3e-3)
    # The second run finds the first one's last checkpoint, and only refines.
    guessed, refined = (fit(linear_set, replace(settings, latent_steps=steps), tmp_path) for steps in (0, 3))
    before, after = (abs(spearmanr(result.z[:, 0], linear_set.y)[0]) for result in (guessed, refined))
    assert after > before + 0.02
    assert after > 0.7


def test_images_on_disk_give_the_same_result_as_in_memory(linear_set: LinearSet) -> None:
    settings = replace(QUICK, epochs=2, dec_dim=16)
    streamed = train(linear_set.images, linear_set.base_map, settings, context(memory_bytes=4.0))
    assert np.array_equal(streamed.z, fit(linear_set, settings).z)


def test_reading_ahead_gives_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "MOST_MAPPED_BYTES", 1)  # lets go of the mapped pages after every reading
    values = np.random.default_rng(0).normal(size=(40, 6, 2)).astype(np.float32)
    values.tofile(tmp_path / "store")
    data = np.memmap(tmp_path / "store", np.float32, "r", 0, values.shape)
    stored = SubsetCoefficients(StoredCoefficients(data, torch.arange(40)), torch.arange(10, 40))
    ahead = prefetch.ReadAhead(stored)
    try:
        for rows, announced in (([3, 1], [3, 1]), ([2], [9]), ([29, 0, 4], [29, 0, 4])):
            ahead.expect(torch.tensor(announced), 4)
            got = torch.view_as_real(ahead.gather(torch.tensor(rows), 4)).numpy()
            assert np.array_equal(got, values[10 + np.array(rows), :4])
    finally:
        ahead.close()


def test_a_warm_start_brings_its_volumes_and_latents(
    linear_set: LinearSet, fitted: NeuralHeterogeneity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_start, "FIT_STEPS", 100)
    monkeypatch.setattr(warm_start, "ENCODER_STEPS", 200)
    start = WarmStart.from_result(fitted)
    assert np.allclose(np.cov(start.z, rowvar=False), np.eye(2), atol=1e-3)
    assert start.mean is not None
    assert start.components is not None
    form = fitted.linear_form()  # type: ignore[attr-defined]
    linear = form.weights(fitted.z[:1]) @ np.stack(list(form.components())).reshape(form.n_components, -1)
    handed = start.mean + np.tensordot(start.z[0], start.components, 1)
    assert correlation(handed, form.mean + linear.reshape(32, 32, 32)) > 0.99
    for latents in ("table", "encoder"):
        settings = replace(QUICK, epochs=1, architecture="vae", latents=latents, enc_dim=64, dec_dim=64)
        said = io.StringIO()
        warm = train(linear_set.images, linear_set.base_map, settings, context(None, Monitor(said)), start=fitted)
        assert "of its volumes learned" in said.getvalue()
        cold = fit(linear_set, settings)
        assert warm.loss_history["reconstruction"][0] < cold.loss_history["reconstruction"][0]
        # One pass keeps what the start knew: the true coordinate is still a linear function of the latents.
        design = np.column_stack([warm.z, np.ones(len(warm.z))])
        fit_of_y = design @ np.linalg.lstsq(design, linear_set.y, rcond=None)[0]
        assert correlation(fit_of_y, linear_set.y) > 0.8


def test_a_warm_start_of_other_dimensions_is_refused(linear_set: LinearSet, fitted: NeuralHeterogeneity) -> None:
    with pytest.raises(InputError, match="same --zdim"):
        train(linear_set.images, linear_set.base_map, replace(QUICK, zdim=3), context(), start=fitted)


@pytest.mark.parametrize(("n", "batch"), [(600, 16), (601, 8)])
def test_every_batch_is_shared_evenly(n: int, batch: int) -> None:
    order = visiting_order(n, 3, 1)
    assert torch.equal(order.sort().values, torch.arange(n))
    assert torch.equal(order, visiting_order(n, 3, 1, processes=4))
    assert not torch.equal(order, visiting_order(n, 3, 2))
    first_half = order[: n // batch * batch].view(-1, batch) < n // 2
    assert (first_half.sum(1) - batch // 2).abs().max() <= 1


KINDS: dict[str, dict[str, Any]] = {
    "separable": {"architecture": "separable"},
    "table": {"architecture": "vae", "latents": "table"},
}


def train_as_group(folder: str) -> None:
    data = make_linear_set(120, 0.07)
    with join() as group:
        for name, kind in KINDS.items():
            settings = replace(QUICK, epochs=2, enc_dim=16, dec_dim=16, **kind)
            result = train(data.images, data.base_map, settings, context(Path(folder) / name))
            np.savez(Path(folder) / f"{name}_{group.rank}.npz", z=result.z, loss=result.loss_history["total"])


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(tmp_path: Path) -> None:
    ends = run_group("tests.engines.test_neural_engine:train_as_group", 2, str(tmp_path))
    assert [end.returncode for end in ends] == [0, 0], ends
    data = make_linear_set(120, 0.07)
    for name, kind in KINDS.items():
        alone = fit(data, replace(QUICK, epochs=2, enc_dim=16, dec_dim=16, **kind))
        for rank in range(2):
            shared = np.load(tmp_path / f"{name}_{rank}.npz")
            assert np.abs(shared["z"] - alone.z).max() < 1e-4 * np.abs(alone.z).max()
            assert np.allclose(shared["loss"], alone.loss_history["total"], rtol=1e-4)


@pytest.mark.parametrize(
    "kind", [{"architecture": "separable"}, {"architecture": "vae"}, {"architecture": "vae", "latents": "table"}]
)
@pytest.mark.parametrize("steps", [2, 3, 5])  # a pass has 3 steps: before, at and after its end
def test_continued_run_equals_an_uninterrupted_one(
    linear_set: LinearSet, tmp_path: Path, kind: dict[str, Any], steps: int
) -> None:
    settings = replace(QUICK, epochs=2, batch=200, enc_dim=16, dec_dim=16, **kind)
    whole = fit(linear_set, settings)
    with pytest.raises(JobAborted):
        train(linear_set.images, linear_set.base_map, settings, context(tmp_path, RecordingMonitor(steps=steps)))
    resumed = fit(linear_set, settings, tmp_path)
    assert np.array_equal(resumed.z, whole.z)
    assert resumed.loss_history == whole.loss_history
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_checkpoint_of_other_settings_is_refused(linear_set: LinearSet, tmp_path: Path) -> None:
    settings = replace(QUICK, epochs=1, dec_dim=16)
    fit(linear_set, settings, tmp_path)
    with pytest.raises(ResumeError, match="other settings"):
        fit(linear_set, replace(settings, zdim=3), tmp_path)


def test_more_epochs_continue_from_a_finished_run(linear_set: LinearSet, tmp_path: Path) -> None:
    settings = replace(QUICK, epochs=1, dec_dim=16)
    first = fit(linear_set, settings, tmp_path)
    longer = fit(linear_set, replace(settings, epochs=2), tmp_path)
    assert longer.loss_history["total"][0] == first.loss_history["total"][0]
    assert len(longer.loss_history["total"]) == 2


def test_fewer_epochs_than_done_are_said(linear_set: LinearSet, tmp_path: Path) -> None:
    settings = replace(QUICK, epochs=2, dec_dim=16)
    fit(linear_set, settings, tmp_path)
    said = io.StringIO()
    train(linear_set.images, linear_set.base_map, replace(settings, epochs=1), context(tmp_path, Monitor(said)))
    assert "Warning: the model has been trained for 2 passes already" in said.getvalue()


def test_damaged_checkpoint_is_refused(linear_set: LinearSet, tmp_path: Path) -> None:
    settings = replace(QUICK, epochs=1, dec_dim=16)
    fit(linear_set, settings, tmp_path)
    (tmp_path / "neural.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ResumeError, match="cannot be read"):
        fit(linear_set, settings, tmp_path)


def test_homogeneous_mode_corrects_a_wrong_consensus() -> None:
    """Without a latent, the network learns what the consensus lacks: here up to half of the density."""
    data = make_linear_set(600, 0.01)
    settings = NeuralSettings(zdim=0, epochs=6, batch=16, dec_dim=64, precision="float32")
    wrong = data.base_map * np.linspace(0.5, 1.5, 32, dtype=np.float32)[:, None, None]
    result = train(data.images, wrong, settings, context())
    assert result.z.shape == (600, 0)
    (volume,) = result.volumes(np.zeros((1, 0), np.float32))
    truth = data.base_map + data.y.mean() * data.mode_map
    assert np.linalg.norm(volume - truth) < 0.5 * np.linalg.norm(wrong - truth)


def test_published_recipe_learns_without_a_consensus(linear_set: LinearSet) -> None:
    settings = NeuralSettings(
        preset="cryodrgn", zdim=1, epochs=4, enc_dim=64, dec_dim=64, learning_rate=1e-3, precision="float32",
    )  # fmt: skip
    result = train(linear_set.images, None, settings, context())
    assert isinstance(result, NeuralHeterogeneity)
    assert result.consensus is None
    history = result.loss_history["reconstruction"]
    assert history[-1] - 1.0 < 0.5 * (history[0] - 1.0)  # 1 is what noise alone leaves
    (volume,) = result.volumes(np.zeros((1, 1), np.float32))
    assert correlation(volume, linear_set.base_map) > 0.6


@pytest.mark.parametrize(
    ("z", "words"), [(np.zeros((2, 5)), "shape"), (np.full((2, 2), np.nan), "row 0"), (np.zeros(2), "shape")]
)
def test_bad_latents_are_refused(fitted: NeuralHeterogeneity, z: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        list(fitted.volumes(z))


def test_published_recipe_is_the_published_one() -> None:
    # Zhong 2022, 4.4.5: Adam at 1e-4, minibatches of 8; 6.4.1: 1024 x 3 networks.
    recipe = resolve(NeuralSettings(preset="cryodrgn", zdim=8), 0, 100_000)
    assert (recipe.learning_rate, recipe.batch, recipe.enc_dim, recipe.dec_dim) == (1e-4, 8, 1024, 1024)
    assert recipe.final_learning_rate == recipe.learning_rate
    assert not recipe.residual
    assert recipe.of_sums  # 5.6.1: y = ReLU(fc(x) + x)
    assert recipe.kl_weight == pytest.approx(1 / 16)


@pytest.mark.parametrize(
    "options", [{"latents": "table"}, {"latent_steps": 2},
                {"architecture": "vae", "domain": "hartley", "latent_steps": 1}]
)  # fmt: skip
def test_contradicting_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="leave"):
        resolve(NeuralSettings(**options), 0, 1000)


def test_unknown_engine_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="no engine 'magic'"):
        get_engine("magic")


@pytest.mark.parametrize(
    "damage", [lambda d: (d / "engine.json").unlink(), lambda d: (d / "engine.json").write_text("{"),
               lambda d: (d / "model.safetensors").unlink(), lambda d: (d / "model.safetensors").write_bytes(b"x" * 64)]
)  # fmt: skip
def test_damaged_models_are_refused(fitted: NeuralHeterogeneity, tmp_path: Path, damage: Any) -> None:
    fitted.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=r"make it again|give the result directory"):
        load_heterogeneity(tmp_path)

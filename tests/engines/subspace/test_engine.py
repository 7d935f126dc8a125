"""The subspace engine as jobs use it: the truth, files, resuming, odd sets, and promises about equal results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from cryodrgn_ext.engines.base import Linear, Regions, load_heterogeneity
from cryodrgn_ext.engines.subspace.engine import train
from cryodrgn_ext.engines.subspace.features import Features
from cryodrgn_ext.engines.subspace.heterogeneity import SubspaceHeterogeneity
from cryodrgn_ext.engines.subspace.settings import SubspaceSettings
from cryodrgn_ext.errors import InputError, JobAborted, ResumeError
from cryodrgn_ext.images.coefficient_source import ResidentCoefficients
from cryodrgn_ext.images.particle_images import ParticleImages
from tests.devices import DEVICES
from tests.engines.contexts import context
from tests.engines.linear_set import LinearSet, correlation
from tests.engines.subspace.test_halves import homogeneous
from tests.monitors import RecordingMonitor

QUICK = SubspaceSettings(zdim=2, curve_features=6)


def fit(
    data: LinearSet, settings: SubspaceSettings = QUICK, folder: Path | None = None, seed: int = 0,
    device: str = "cpu", **more: Any,
) -> SubspaceHeterogeneity:  # fmt: skip
    return train(data.images, data.base_map, settings, context(folder, seed=seed, device=device), **more)


@pytest.fixture(scope="module")
def fitted(linear_set: LinearSet) -> SubspaceHeterogeneity:
    return fit(linear_set)


@pytest.fixture(scope="module", params=DEVICES)
def fitted_there(request: pytest.FixtureRequest, linear_set: LinearSet, fitted: SubspaceHeterogeneity
                 ) -> SubspaceHeterogeneity:  # fmt: skip
    """A model trained on each device of this machine."""
    return fitted if request.param == "cpu" else fit(linear_set, device=request.param)


def explained_by(z: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation of the truth with its linear prediction from latents, on the half not fitted."""
    design = np.column_stack([z, np.ones(len(z))])
    half = len(design) // 2
    coefficients, *_ = np.linalg.lstsq(design[:half], y[:half], rcond=None)
    return float(abs(spearmanr(design[half:] @ coefficients, y[half:])[0]))


def same(a: SubspaceHeterogeneity, b: SubspaceHeterogeneity) -> None:
    """Equal bit for bit."""
    assert np.array_equal(a.z, b.z)
    assert a.z_cov is not None
    assert b.z_cov is not None
    assert np.array_equal(a.z_cov, b.z_cov)
    assert torch.equal(a.values, b.values)
    assert np.array_equal(a.particle, b.particle)
    assert np.array_equal(a.moving, b.moving)
    assert a.loss_history == b.loss_history
    assert a.columns_used == b.columns_used
    for one, two in zip(a.volumes(a.z[:2]), b.volumes(b.z[:2]), strict=True):
        assert np.array_equal(one, two)


# The truth ------------------------------------------------------------------------------------------------------------


def test_latents_tell_the_true_coordinate(linear_set: LinearSet, fitted_there: SubspaceHeterogeneity) -> None:
    assert explained_by(fitted_there.z, linear_set.y) > 0.97


def test_a_continuous_coordinate_is_no_set_of_states(fitted: SubspaceHeterogeneity) -> None:
    assert isinstance(fitted.features, Features)


def test_volumes_are_closer_to_the_truth_than_the_consensus(
    linear_set: LinearSet, fitted: SubspaceHeterogeneity
) -> None:
    rows = np.argsort(linear_set.y)[[20, 100, 300, 500, 580]]
    for row, volume in zip(rows, fitted.volumes(fitted.z[rows]), strict=True):
        truth = linear_set.base_map + linear_set.y[row] * linear_set.mode_map
        error, before = np.linalg.norm(volume - truth), np.linalg.norm(linear_set.base_map - truth)
        assert error < (0.5 if abs(linear_set.y[row]) > 1 else 1.0) * max(before, 0.2 * np.linalg.norm(truth))


def test_volumes_move_along_the_true_mode(linear_set: LinearSet, fitted_there: SubspaceHeterogeneity) -> None:
    high, low = fitted_there.z[linear_set.y > 1].mean(0), fitted_there.z[linear_set.y < -1].mean(0)
    upper, lower = fitted_there.volumes(np.stack([high, low]))
    assert correlation(upper - lower, linear_set.mode_map) > 0.9
    assert correlation(upper + lower, linear_set.base_map) > 0.95


def test_posterior_covariance_covers_the_error(linear_set: LinearSet, fitted_there: SubspaceHeterogeneity) -> None:
    assert fitted_there.z_cov is not None
    design = np.column_stack([fitted_there.z, np.ones(len(fitted_there.z))])
    coefficients, *_ = np.linalg.lstsq(design, linear_set.y, rcond=None)
    error = (design @ coefficients - linear_set.y).std()
    predicted = np.sqrt(np.einsum("i,nij,j->n", coefficients[:2], fitted_there.z_cov, coefficients[:2]).mean())
    assert 0.3 < predicted / error < 3


def test_a_homogeneous_set_gives_back_its_consensus(linear_set: LinearSet) -> None:
    data = homogeneous(linear_set)
    result = fit(data)
    volumes = np.stack(list(result.volumes(result.z[:20])))
    assert np.linalg.norm(volumes - data.base_map) < 0.15 * np.linalg.norm(np.stack([data.base_map] * 20))
    assert np.abs(volumes - volumes[:1]).max() < 0.02 * data.base_map.max()


# Equal results --------------------------------------------------------------------------------------------------------


def test_same_seed_same_bits_other_seed_other_bits(linear_set: LinearSet, fitted: SubspaceHeterogeneity) -> None:
    same(fit(linear_set), fitted)
    assert not np.array_equal(fit(linear_set, seed=1).z, fitted.z)


def test_threads_do_not_change_volumes_beyond_rounding(
    linear_set: LinearSet, fitted: SubspaceHeterogeneity
) -> None:  # fmt: skip
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if before > 1 else 2)  # another number than the fixture was made with
        alone = fit(linear_set)
    finally:
        torch.set_num_threads(before)
    # Rounding is amplified by the passes over a curved model, but stays far below what noise leaves uncertain.
    assert fitted.z_cov is not None
    uncertain = np.sqrt(np.diagonal(fitted.z_cov, axis1=1, axis2=2))
    assert np.abs(alone.z - fitted.z).max() < 0.05 * np.median(uncertain, axis=0).min()


def test_linear_form_gives_the_same_volumes(fitted: SubspaceHeterogeneity) -> None:
    assert isinstance(fitted, Linear)
    form = fitted.linear_form()
    z = fitted.z[:3]
    weights = form.weights(z)
    maps = np.stack(list(form.components()))
    assert weights.shape == (3, form.n_components)
    assert maps.shape == (form.n_components, 32, 32, 32)
    for row, volume in zip(weights, fitted.volumes(z), strict=True):
        assert np.allclose(form.mean + np.tensordot(row, maps, 1), volume, atol=1e-5 * np.abs(volume).max())


def test_saved_model_gives_the_same_volumes(fitted: SubspaceHeterogeneity, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    loaded = load_heterogeneity(tmp_path)
    assert isinstance(loaded, SubspaceHeterogeneity)
    same(loaded, fitted)


@pytest.mark.parametrize(
    "damage", [lambda d: (d / "engine.json").unlink(), lambda d: (d / "engine.json").write_text("{"),
               lambda d: (d / "engine.json").write_text('{"engine": "subspace", "radius": 3}'),
               lambda d: (d / "engine.json").write_text('{"engine": "subspace", "radius": -3, "length": 1, "spread": 1,'
                                                        '"carried": [0], "pixel_size_A": 1, "loss_history": {}}'),
               lambda d: (d / "model.safetensors").unlink(), lambda d: (d / "model.safetensors").write_bytes(b"x" * 64),
               lambda d: (d / "model.safetensors").write_bytes((d / "model.safetensors").read_bytes()[:-100])]
)  # fmt: skip
def test_damaged_models_are_refused(fitted: SubspaceHeterogeneity, tmp_path: Path, damage: Any) -> None:
    fitted.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=r"make it again|give the result directory"):
        load_heterogeneity(tmp_path)


@pytest.mark.parametrize(
    ("z", "words"), [(np.zeros((2, 5)), "shape"), (np.full((2, 2), np.nan), "row 0"), (np.zeros(2), "shape")]
)
def test_bad_latents_are_refused(fitted: SubspaceHeterogeneity, z: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        list(fitted.volumes(z))


def test_latents_far_from_all_particles_give_finite_volumes(fitted: SubspaceHeterogeneity) -> None:
    for volume in fitted.volumes(np.array([[1e6, -1e6], [0, 0]], np.float32)):
        assert np.isfinite(volume).all()


# Resuming -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks of images in a pass, as with real sets."""
    monkeypatch.setattr("cryodrgn_ext.engines.subspace.band.CHUNK_COEFFICIENTS", 40_000)


@pytest.mark.slow
@pytest.mark.usefixtures("in_chunks")
@pytest.mark.parametrize("fit_contrast", ["no", "yes"])
def test_continued_run_equals_an_uninterrupted_one(linear_set: LinearSet, tmp_path: Path, fit_contrast: str) -> None:
    settings = replace(QUICK, fit_contrast=fit_contrast)
    few = replace(linear_set, images=linear_set.images.subset(torch.arange(300)))
    watch = RecordingMonitor()
    whole = train(few.images, few.base_map, settings, context(None, watch))
    for number, share in enumerate((0.02, 0.4, 0.8, 0.95, 1.0)):
        folder = tmp_path / str(number)
        with pytest.raises(JobAborted):
            train(
                few.images,
                few.base_map,
                settings,
                context(folder, RecordingMonitor(polls=int(share * (watch.polled - 1)))),
            )
        same(fit(few, settings, folder), whole)


@pytest.mark.usefixtures("in_chunks")
def test_a_run_may_be_continued_many_times(linear_set: LinearSet, tmp_path: Path) -> None:
    whole = fit(linear_set)
    for polls in range(7, 400, 9):
        try:
            result = train(
                linear_set.images, linear_set.base_map, QUICK, context(tmp_path, RecordingMonitor(polls=polls))
            )
            break
        except JobAborted:
            continue
    same(result, whole)


def test_a_finished_run_is_not_done_again(linear_set: LinearSet, tmp_path: Path) -> None:
    first, watch = fit(linear_set, QUICK, tmp_path), RecordingMonitor()
    same(train(linear_set.images, linear_set.base_map, QUICK, context(tmp_path, watch)), first)
    assert watch.polled < 5


@pytest.mark.parametrize("change", [{"zdim": 3}, {"fit_contrast": "yes"}, {"curve_features": 5}])
def test_checkpoint_of_other_settings_is_refused(linear_set: LinearSet, tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(JobAborted):
        train(linear_set.images, linear_set.base_map, QUICK, context(tmp_path, RecordingMonitor(polls=5)))
    with pytest.raises(ResumeError, match="other settings"):
        fit(linear_set, replace(QUICK, **change), tmp_path)
    with pytest.raises(ResumeError, match="other settings"):
        fit(linear_set, QUICK, tmp_path, seed=5)


def test_checkpoint_of_other_particles_is_refused(linear_set: LinearSet, tmp_path: Path) -> None:
    with pytest.raises(JobAborted):
        train(linear_set.images, linear_set.base_map, QUICK, context(tmp_path, RecordingMonitor(polls=5)))
    fewer = replace(linear_set, images=linear_set.images.subset(torch.arange(500)))
    with pytest.raises(ResumeError, match="other particles"):
        fit(fewer, QUICK, tmp_path)


def test_damaged_checkpoint_is_refused(linear_set: LinearSet, tmp_path: Path) -> None:
    (tmp_path / "subspace.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ResumeError, match="cannot be read"):
        fit(linear_set, QUICK, tmp_path)


# Where the coefficients lie -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_chunks")
def test_streaming_gives_the_same_bits_as_memory(linear_set: LinearSet) -> None:
    streamed = train(linear_set.images, linear_set.base_map, QUICK, context(memory_bytes=4.0))
    same(streamed, fit(linear_set))


# Odd sets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zdim", [0, 33])
def test_numbers_of_components_out_of_range_are_refused(linear_set: LinearSet, zdim: int) -> None:
    with pytest.raises(InputError, match=f"1 to 32 components, not --zdim {zdim}"):
        fit(linear_set, replace(QUICK, zdim=zdim))


def test_without_a_consensus_or_images_there_is_one_sentence(linear_set: LinearSet) -> None:
    with pytest.raises(InputError, match="consensus"):
        train(linear_set.images, None, QUICK, context())
    nobody = linear_set.images.subset(torch.arange(0))
    with pytest.raises(InputError, match="no particles"):
        train(nobody, linear_set.base_map, QUICK, context())


@pytest.mark.parametrize("zdim", [1, 32])
@pytest.mark.parametrize("n", [1, 2, 12])
def test_few_particles_and_few_or_many_components(linear_set: LinearSet, zdim: int, n: int) -> None:
    data = replace(linear_set, images=linear_set.images.subset(torch.arange(n)))
    result = fit(data, replace(QUICK, zdim=zdim))
    assert result.z.shape == (n, zdim)
    assert np.isfinite(result.z).all()
    (volume,) = result.volumes(result.z[:1])
    assert correlation(volume, data.base_map) > 0.8


def test_many_components_still_tell_the_truth(linear_set: LinearSet) -> None:
    assert explained_by(fit(linear_set, replace(QUICK, zdim=12)).z[:, :2], linear_set.y) > 0.95


def test_particles_of_one_half_set_only(linear_set: LinearSet) -> None:
    images = replace(linear_set.images, half_set=torch.ones(600, dtype=torch.int8))
    result = fit(replace(linear_set, images=images))
    assert explained_by(result.z, linear_set.y) > 0.95
    assert np.isfinite(next(iter(result.volumes(result.z[:1])))).all()


def test_noiseless_images(linear_set: LinearSet) -> None:
    """Signal a thousand times the noise, as in simulated projections."""
    loaded = linear_set.images.load()
    assert isinstance(loaded.source, ResidentCoefficients)
    source = ResidentCoefficients(loaded.source.values * 1e3, loaded.source.row_of_particle)
    images = replace(loaded, source=source, noise_sigma=loaded.noise_sigma * 1e-3)
    result = fit(replace(linear_set, images=images))
    assert explained_by(result.z, linear_set.y) > 0.92  # errors of interpolation are the noise here
    for volume in result.volumes(result.z[:2]):
        assert np.isfinite(volume).all()


def test_images_of_nothing(linear_set: LinearSet) -> None:
    """All zero images, and a consensus of zeros: nothing to find, and no crash."""
    source = ResidentCoefficients(torch.zeros(600, linear_set.images.plane.n_coefficients, 2), torch.arange(600))
    images = replace(linear_set.images, source=source)
    result = train(images, np.zeros((32, 32, 32), np.float32), QUICK, context())
    assert np.isfinite(result.z).all()
    (volume,) = result.volumes(result.z[:1])
    assert np.abs(volume).max() < 1e-3


@pytest.mark.parametrize("radius", [1, 5, 9, 100])
def test_volumes_end_where_the_consensus_ends(linear_set: LinearSet, radius: int) -> None:
    result = fit(linear_set, consensus_radius=radius)
    assert result.radius == max(min(radius, 16), 6)


# Masks ----------------------------------------------------------------------------------------------------------------


def half_space(side: int) -> np.ndarray:
    """Smooth mask of the half of the box with side * x > 0, x along the last axis."""
    x = np.arange(32) - 16
    return np.broadcast_to(1 / (1 + np.exp(-side * (x - 0.5) * 2.0)), (32, 32, 32)).astype(np.float32)


def test_with_a_focus_mask_volumes_differ_inside_it_only(linear_set: LinearSet) -> None:
    focus = half_space(1)
    result = fit(linear_set, regions=Regions(focus=focus))
    order = np.argsort(linear_set.y)
    low, high = result.volumes(result.z[order[[20, 580]]])
    difference = np.abs(high - low)
    assert difference[focus < 0.01].max() < 0.02 * difference.max()
    truth = linear_set.mode_map * focus
    assert correlation(high - low, truth) > 0.8


def test_volumes_stay_within_a_given_mask_of_the_particle(linear_set: LinearSet) -> None:
    mask = half_space(-1)
    result = fit(linear_set, regions=Regions(particle=mask))
    (volume,) = result.volumes(result.z[:1])
    assert np.abs(volume[mask < 0.01]).max() < 0.02 * np.abs(volume).max()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_masks_of_nothing_and_of_everything(linear_set: LinearSet, value: float) -> None:
    mask = np.full((32, 32, 32), value, np.float32)
    result = fit(linear_set, regions=Regions(particle=mask, focus=mask))
    assert np.isfinite(result.z).all()
    for volume in result.volumes(result.z[:1]):
        assert np.isfinite(volume).all()


# Contrast -------------------------------------------------------------------------------------------------------------


def with_scales(data: LinearSet, spread: float) -> tuple[LinearSet, np.ndarray]:
    """Coefficients times a random particle_scale, with the noise as it was."""
    images: ParticleImages = data.images
    rows = torch.arange(images.n)
    particle_scale = (1 + spread * torch.randn(images.n, generator=torch.Generator().manual_seed(4))).clamp(0.4, 1.8)
    values = images.source.gather(rows, images.plane.n_coefficients) * particle_scale[:, None]
    values += torch.view_as_complex(
        torch.randn(*values.shape, 2, generator=torch.Generator().manual_seed(5)) * 0.5**0.5
    )
    source = ResidentCoefficients(torch.view_as_real(values), rows)
    return replace(data, images=replace(images, source=source)), particle_scale.numpy()


def test_fitted_scales_keep_thick_ice_out_of_the_latents(linear_set: LinearSet) -> None:
    data, particle_scale = with_scales(linear_set, 0.3)
    plain, fitted = (fit(data, replace(QUICK, zdim=3, fit_contrast=choice)) for choice in ("no", "auto"))
    assert explained_by(plain.z, particle_scale) > 0.6  # without it a component follows the particle_scale
    assert explained_by(fitted.z, particle_scale) < 0.3
    assert explained_by(fitted.z, data.y) > max(explained_by(plain.z, data.y), 0.9)

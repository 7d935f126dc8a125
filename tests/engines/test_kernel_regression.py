"""Volumes near given latents: against the true volumes, brute force, and plain backprojection."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryodrgn_ext.engines import kernel_regression, near_knots
from cryodrgn_ext.engines.base import Linear, load_heterogeneity
from cryodrgn_ext.engines.kernel_regression import (
    KernelRegression,
    interpolation_weights,
    regress_volumes,
)
from cryodrgn_ext.engines.near_knots import NearKnots, find_widths
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.reconstruction.backprojection import backproject
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps
from tests.engines.linear_set import LinearSet, correlation, make_linear_set

KNOTS = np.linspace(-1.8, 1.8, 9, dtype=np.float32)[:, None]
RADIUS = 12  # of the consensus' resolution, cycles per box


@pytest.fixture(scope="module")
def many() -> LinearSet:
    return make_linear_set(2400, 0.05, seed=3)


@pytest.fixture(scope="module")
def consensus(many: LinearSet) -> np.ndarray:
    return reconstruct_half_maps(many.images).map


@pytest.fixture(scope="module")
def fitted(many: LinearSet, consensus: np.ndarray) -> KernelRegression:
    z = many.y[:, None].astype(np.float32)
    return regress_volumes(many.images, z, KNOTS, 300, consensus, RADIUS, monitor=SilentMonitor())


@pytest.mark.parametrize("y", [-1.5, -0.5, 0.2, 1.4])
def test_a_volume_shows_the_structure_at_its_latent(y: float, many: LinearSet, fitted: KernelRegression) -> None:
    (found,) = fitted.volumes(np.array([[y]], np.float32))
    others = np.linspace(-1.8, 1.8, 37)
    scores = [correlation(found, many.base_map + other * many.mode_map) for other in others]
    assert max(scores) > 0.95
    assert others[int(np.argmax(scores))] == pytest.approx(y, abs=0.35)


def test_the_linear_form_is_exact(fitted: KernelRegression) -> None:
    assert isinstance(fitted, Linear)
    z = np.array([[-2.5], [0.1], [0.9]], np.float32)
    form = fitted.linear_form()
    components = np.stack(list(form.components()))
    assert len(components) == form.n_components
    for volume, weights in zip(fitted.volumes(z), form.weights(z), strict=True):
        np.testing.assert_allclose(volume, form.mean + np.tensordot(weights, components, axes=1), atol=1e-6)


def test_all_images_give_the_consensus(many: LinearSet, consensus: np.ndarray) -> None:
    """All latents at one distance of the knot: every image counts the same, and nothing is left to differ."""
    z = np.ones((many.images.n, 1), np.float32)
    one = np.ones((1, 1), np.float32)
    fitted = regress_volumes(many.images, z, one, many.images.n, consensus, RADIUS, monitor=SilentMonitor())
    (found,) = fitted.volumes(z[:1])
    inside, dense = found != 0, many.base_map > 0.1 * many.base_map.max()
    np.testing.assert_allclose(found[dense], consensus[dense], atol=1e-4 * consensus.max())
    assert 0.02 < inside.mean() < 0.6


def test_latents_that_mean_nothing_give_volumes_that_do_not_differ(many: LinearSet, consensus: np.ndarray) -> None:
    z = np.random.default_rng(0).normal(size=(many.images.n, 1)).astype(np.float32)
    random = regress_volumes(many.images, z, KNOTS, 300, consensus, RADIUS, monitor=SilentMonitor())
    true = regress_volumes(many.images, many.y[:, None].astype(np.float32), KNOTS, 300, consensus, RADIUS,
                           monitor=SilentMonitor())  # fmt: skip
    assert random.maps.std(axis=0).max() < 0.3 * true.maps.std(axis=0).max()


def test_a_volume_is_nearer_to_the_truth_than_the_consensus_is(
    many: LinearSet, consensus: np.ndarray, fitted: KernelRegression
) -> None:
    for y in (-1.5, -0.7, 0.8, 1.5):
        truth = many.base_map + y * many.mode_map
        (found,) = fitted.volumes(np.array([[y]], np.float32))
        assert np.square(found - truth).sum() < 0.6 * np.square(consensus - truth).sum()


def test_more_images_are_taken_when_they_are_noisier() -> None:
    counts = []
    for noise in (0.02, 0.6):
        data = make_linear_set(2400, noise, seed=5)
        near = NearKnots(data.images, data.y[:, None].astype(np.float32), KNOTS, "cpu", SilentMonitor())
        found = find_widths(near)
        counts.append(np.mean([found.counts[one] for one in found.of_shell[1:10].tolist()]))
        assert sum(part.sum() for _, part in found.parts()) == len(found.of_shell)
    assert counts[0] < counts[1]


def test_as_many_images_from_both_halves(
    many: LinearSet, consensus: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-set whose latents lie farther away still gives half of the images."""
    half = (torch.arange(many.images.n) % 4 == 0).to(torch.int8) + 1
    images = replace(many.images, half_set=half)
    z = (many.y[:, None] + 0.1 * (half.numpy() == 2)[:, None]).astype(np.float32)
    seen: list[np.ndarray] = []

    def spy(images, rows, weights=None, **options):  # type: ignore[no-untyped-def]
        if weights is not None:
            seen.append(rows.numpy())
        return backproject(images, rows, weights, **options)

    monkeypatch.setattr(near_knots, "backproject", spy)
    regress_volumes(images, z, KNOTS[4:5], 60, consensus, RADIUS, monitor=SilentMonitor())
    assert np.bincount(half.numpy()[np.concatenate(seen[-2:])])[1:].tolist() == [30, 30]


@pytest.mark.parametrize("q", [1, 2, 4])
def test_what_is_linear_in_latents_stays_so(q: int) -> None:
    """Also what lies a little outside of the knots; far outside nothing explodes."""
    rng = np.random.default_rng(q)
    knots = rng.normal(size=(60, q)).astype(np.float32)
    z = rng.normal(size=(500, q)).astype(np.float32)
    weights = interpolation_weights(knots, z)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    assert np.abs(weights @ knots - z).mean() < 0.1
    assert np.abs(interpolation_weights(knots, 50 * z)).sum(axis=1).max() < 10


def test_particles_do_not_pile_up_at_knots() -> None:
    """Evenly spread latents give evenly spread volumes, else a landscape would show states that are not there."""
    knots = np.linspace(-2, 2, 17, dtype=np.float32)[:, None]
    z = np.linspace(-1.9, 1.9, 2001, dtype=np.float32)[:, None]
    steps = np.diff((interpolation_weights(knots, z) @ knots)[:, 0]) / np.diff(z[:, 0])
    assert steps.min() > 0.8
    assert steps.max() < 1.2


def test_interpolation_against_a_fit_point_by_point() -> None:
    rng = np.random.default_rng(1)
    knots, z = rng.normal(size=(12, 2)), rng.normal(size=(40, 2))
    values = rng.normal(size=12)
    found = interpolation_weights(knots.astype(np.float32), z.astype(np.float32)) @ values
    for value, point in zip(found, z, strict=True):
        distance = np.linalg.norm(knots - point, axis=1)
        reach = np.sort(distance)[6]
        near = distance < reach
        weight = (1 - (distance[near] / reach) ** 2) ** 2
        terms = np.column_stack([np.ones(near.sum()), (knots[near] - point) / reach])
        slopes = np.sqrt(kernel_regression.RIDGE * weight.sum()) * np.eye(3)[1:]  # the ridge, as further equations
        design = np.vstack([np.sqrt(weight)[:, None] * terms, slopes])
        right = np.concatenate([np.sqrt(weight) * values[near], [0, 0]])
        assert value == pytest.approx(np.linalg.lstsq(design, right, rcond=None)[0][0], abs=1e-3)


def test_interpolation_is_continuous() -> None:
    rng = np.random.default_rng(2)
    knots = rng.normal(size=(20, 2)).astype(np.float32)
    path = np.linspace([-2, -1], [2, 1.5], 4001).astype(np.float32)
    steps = np.abs(np.diff(interpolation_weights(knots, path), axis=0)).sum(axis=1)
    assert steps.max() < 0.1


@pytest.mark.parametrize("n_knots", [1, 2, 3])
def test_few_knots(n_knots: int) -> None:
    knots = np.arange(n_knots, dtype=np.float32)[:, None].repeat(4, axis=1)
    weights = interpolation_weights(knots, np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32))
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)


def test_saved_and_read_back(fitted: KernelRegression, tmp_path: Path) -> None:
    covariance = np.ones((len(fitted.z), 1, 1), np.float32)
    replace(fitted, z_cov=covariance).save(tmp_path)
    read = load_heterogeneity(tmp_path)
    assert isinstance(read, KernelRegression)
    np.testing.assert_array_equal(read.maps, fitted.maps)
    np.testing.assert_array_equal(read.z_cov, covariance)
    assert read.pixel_size_A == pytest.approx(fitted.pixel_size_A)
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:100])
    with pytest.raises(InputError, match=r"the model in .* cannot be read"):
        load_heterogeneity(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"the model in .* does not exist"):
        load_heterogeneity(tmp_path)


def test_latents_must_fit(fitted: KernelRegression, many: LinearSet, consensus: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"2400 finite latents expected"):
        regress_volumes(
            many.images, np.zeros((5, 1), np.float32), KNOTS, 10, consensus, RADIUS, monitor=SilentMonitor()
        )
    with pytest.raises(InputError, match=r"\(P, 1\) expected"):
        next(fitted.volumes(np.zeros((1, 2), np.float32)))
    with pytest.raises(InputError, match="row 1"):
        next(fitted.volumes(np.array([[0.0], [np.nan]], np.float32)))

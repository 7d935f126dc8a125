"""Expectation maximisation: it climbs, its rewriting of components changes nothing, and noise is not called real."""

from __future__ import annotations

import itertools

import pytest
import torch

from cryodrgn_ext.engines.subspace.anatomy import Anatomy
from cryodrgn_ext.engines.subspace.band import Band
from cryodrgn_ext.engines.subspace.beginnings import random_latents
from cryodrgn_ext.engines.subspace.em import SubspaceFit, em_pass, images_of_pass, latents, whiten
from cryodrgn_ext.engines.subspace.grid import ComponentGrid
from cryodrgn_ext.engines.subspace.halves import Halves
from cryodrgn_ext.engines.subspace.posterior import Posterior, infer
from cryodrgn_ext.engines.subspace.subspace import Subspace
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.progress import SilentMonitor
from tests.engines.linear_set import LinearSet
from tests.engines.subspace.tiny_problem import friedel_components

ZDIM = 3


def band_of(data: LinearSet, radius: int = 6, memory_bytes: float = 1e9) -> Band:
    base = FourierVolume.from_map(torch.from_numpy(data.base_map), radius=15)
    return Band(data.images, base, radius, torch.device("cpu"), memory_bytes)


def start(band: Band) -> torch.Tensor:
    """Small random components of real maps."""
    return 3.0 * friedel_components(band.grid, ZDIM + 1, torch.Generator().manual_seed(0))


def posterior(rows: torch.Tensor, inner: torch.Tensor, cross: torch.Tensor) -> Posterior:
    return infer(inner, cross)


def climb(data: LinearSet, precision: float, rewrite: bool, passes: int = 15) -> list[float]:
    """Objective before each pass: evidence of all images less the prior's penalty, both in nats."""
    band = band_of(data)
    values, rows = start(band), torch.arange(150)
    prior = torch.full((band.radius + 1, ZDIM + 1), precision, dtype=torch.float64)
    stands_for = torch.ones(band.grid.n_voxels, dtype=torch.float64)
    stands_for[band.grid.meridian[0]] = 0.5
    objective = []
    for _ in range(passes):
        result = em_pass(band, values, ZDIM, rows, posterior, SilentMonitor())
        penalty = precision * float((stands_for[:, None, None] * values.double().square()).sum())
        objective.append(result.count * result.evidence - penalty)
        values = result.equations.solve(values, prior)
        if rewrite:
            values, _ = whiten(band.grid, values, ZDIM, result.mean, result.second)
    return objective


@pytest.mark.parametrize(("precision", "rewrite"), [(1e-9, True), (1e-9, False), (0.05, False)])
def test_objective_never_falls_at_a_fixed_band(linear_set: LinearSet, precision: float, rewrite: bool) -> None:
    objective = climb(linear_set, precision, rewrite)
    rises = [after - before for before, after in itertools.pairwise(objective)]
    assert min(rises) > -1e-5 * abs(objective[-1])
    assert objective[-1] > objective[0] + 100


def test_rewriting_components_makes_climbing_faster(linear_set: LinearSet) -> None:
    assert climb(linear_set, 1e-9, True)[-1] >= climb(linear_set, 1e-9, False)[-1]


def test_whitening_leaves_the_distribution_of_volumes() -> None:
    grid, q = ComponentGrid(16, 5), 4
    generator = torch.Generator().manual_seed(0)
    values = friedel_components(grid, q + 1, generator)
    mean = torch.randn(q, generator=generator, dtype=torch.float64)
    factor = torch.randn(q, q, generator=generator, dtype=torch.float64)
    second = factor @ factor.T + mean[:, None] * mean
    out, power = whiten(grid, values, q, mean, second)
    before, after = values[..., 1 : q + 1].double().flatten(0, 1), out[..., 1 : q + 1].double().flatten(0, 1)
    average = values[..., 0].double() + (before @ mean).reshape(-1, 2)
    assert torch.allclose(out[..., 0].double(), average, atol=1e-5)
    covariance = before @ (factor @ factor.T) @ before.T
    assert torch.allclose(after @ after.T, covariance, atol=1e-5 * float(covariance.abs().max()))
    weight = grid.multiplicity.double().repeat_interleave(2)
    gram = after.T @ (weight[:, None] * after)
    assert torch.allclose(gram, torch.diag(power), atol=1e-5 * float(power[0]))
    assert (power[:-1] >= power[1:]).all()


def test_power_of_a_component_is_the_variance_of_volumes() -> None:
    """Sum over the whole sphere of |P|^2 = D^3 times the sum over voxels of the map squared (Parseval)."""
    grid = ComponentGrid(16, 5)
    values = friedel_components(grid, 2, torch.Generator().manual_seed(0))
    values[grid.norm > 5] = 0
    _, power = whiten(grid, values, 1, torch.zeros(1).double(), torch.ones(1, 1).double())
    cube = torch.zeros(grid.cube.shape, dtype=torch.complex64)
    cube.view(-1)[grid.cube_index] = torch.view_as_complex(values[..., 1].contiguous())
    whole = cube.abs().square().sum() + cube[..., 1:].abs().square().sum()
    assert float(power[0]) == pytest.approx(float(whole), rel=1e-5)


@pytest.mark.parametrize("rank", [0, 1])
def test_whitening_survives_latents_that_do_not_vary(rank: int) -> None:
    grid, q = ComponentGrid(12, 4), 3
    values = friedel_components(grid, q + 1, torch.Generator().manual_seed(0))
    direction = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    second = rank * 1e3 * direction[:, None] * direction
    out, power = whiten(grid, values, q, torch.zeros(q).double(), second)
    assert torch.isfinite(out).all()
    assert (power[rank:] <= 1e-6 * max(float(power[0]), 1e-3)).all()


def fitted(data: LinearSet, seed: int = 0, memory_bytes: float = 1e9) -> tuple[SubspaceFit, Subspace]:
    images = data.images

    def make(radius: int) -> Band:
        return band_of(data, radius, memory_bytes)

    fit = SubspaceFit(images, make, ZDIM, 15, 0.0, Anatomy(data.base_map), seed, SilentMonitor())
    return fit, fit.run()


@pytest.fixture(scope="module")
def result(linear_set: LinearSet) -> tuple[SubspaceFit, Subspace]:
    return fitted(linear_set)


def test_of_a_set_with_one_mode_one_component_is_real(result: tuple[SubspaceFit, Subspace]) -> None:
    assert result[1].n_real == 1


def test_latents_have_unit_variance_and_follow_the_truth(
    linear_set: LinearSet, result: tuple[SubspaceFit, Subspace]
) -> None:
    fit, subspace = result
    mean, covariance, particle_scale, rare = latents(fit, subspace, torch.arange(600), SilentMonitor())
    assert rare.shape == (600, 0)
    spread = mean.T @ mean / 600 + covariance.mean(0)
    assert torch.allclose(spread[0, 0], torch.tensor(1.0), atol=0.2)
    assert abs(float(torch.corrcoef(torch.stack([mean[:, 0], torch.from_numpy(linear_set.y)]))[0, 1])) > 0.97
    assert torch.equal(particle_scale, torch.ones(600))


def test_latents_of_no_images_are_empty(result: tuple[SubspaceFit, Subspace]) -> None:
    found = latents(*result, torch.arange(0), SilentMonitor())
    assert [tensor.shape for tensor in found] == [(0, ZDIM), (0, ZDIM, ZDIM), (0,), (0, 0)]


def unfitted(data: LinearSet) -> SubspaceFit:
    anatomy = Anatomy(data.base_map)
    return SubspaceFit(data.images, lambda r: band_of(data, r), ZDIM, 15, 0.0, anatomy, 0, SilentMonitor())


def test_state_restores_to_the_same_passes(linear_set: LinearSet) -> None:
    one, other = unfitted(linear_set), unfitted(linear_set)
    for _ in range(3):
        one.step()
    numbers, tensors = one.state()
    other.restore(dict(numbers), {name: t.clone() for name, t in tensors.items()})
    for fit in (one, other):
        fit.step()
    assert torch.equal(one.values, other.values)
    assert one.history == other.history


def test_passes_over_very_many_images_take_a_part_of_them(
    linear_set: LinearSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cryodrgn_ext.engines.subspace.em.SAMPLES_PER_PASS", 50_000)
    rows = images_of_pass(linear_set.images, 500, seed=1)
    assert len(rows) == 100
    assert (rows[1:] > rows[:-1]).all()
    assert not torch.equal(rows, images_of_pass(linear_set.images, 500, seed=2))
    assert torch.equal(images_of_pass(linear_set.images, 10, seed=1), torch.arange(600))


def test_random_start_depends_on_the_row_alone() -> None:
    whole = random_latents(torch.arange(600), 3, 0)
    part = random_latents(torch.arange(250, 600, 7), 3, 0)
    assert torch.equal(whole[250::7], part)
    assert whole.mean().abs() < 0.1
    assert abs(float(whole.std()) - 1) < 0.1


def test_components_without_power_do_not_agree() -> None:
    """Rounding errors that happen to be the same in both halves are no structure."""
    grid = ComponentGrid(12, 4)
    half = friedel_components(grid, 3, torch.Generator().manual_seed(0))
    half[..., 2] *= 1e-20
    shared = Halves(half, half).agreement(grid, 3)
    assert torch.allclose(shared[:2], torch.ones(2, dtype=torch.float64))
    power = torch.tensor([1.0, 1e-40], dtype=torch.float64)
    assert Subspace(grid, half, 2, power, shared[1:]).n_real == 1
    nothing = torch.zeros_like(half)
    none = Halves(nothing, nothing).agreement(grid, 3)
    assert torch.equal(none, torch.zeros(3, dtype=torch.float64))
    assert Subspace(grid, nothing, 2, torch.zeros(2, dtype=torch.float64), none[1:]).n_real == 0


def test_bands_in_memory_and_from_the_store_give_the_same_chunks(
    linear_set: LinearSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cryodrgn_ext.engines.subspace.band.CHUNK_COEFFICIENTS", 20_000)
    kept, streamed = band_of(linear_set), band_of(linear_set, memory_bytes=0)
    assert kept.resident
    assert not streamed.resident
    rows = torch.arange(600)[torch.randperm(600, generator=torch.Generator().manual_seed(0))[:450].sort().values]
    for chosen in (torch.arange(600), rows, torch.arange(37, 512)):
        a, b = list(kept.chunks(chosen)), list(streamed.chunks(chosen))
        assert len(a) > 1
        assert torch.equal(torch.cat([chunk.rows for chunk in a]), chosen)
        for one, two in zip(a, b, strict=True):
            # Vectorised functions may round their last bit by the place of a number in its array.
            assert torch.allclose(one.values, two.values, rtol=0, atol=1e-5)
            assert torch.allclose(one.whitened_ctf, two.whitened_ctf, rtol=0, atol=1e-6)
            assert torch.equal(one.planes, two.planes)
            if len(chosen) == 600:
                assert torch.equal(one.values, two.values)
                assert torch.equal(one.whitened_ctf, two.whitened_ctf)

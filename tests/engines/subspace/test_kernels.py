"""The compiled kernels against their torch forms, and both against dense matrices in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from cryodrgn_ext.engines.subspace.grid import padded
from cryodrgn_ext.engines.subspace.kernels import RIDGE
from cryodrgn_ext.engines.subspace.tiles import EDGE, Tiles
from cryodrgn_ext.engines.subspace.torch_form import solve, solve_torch
from tests.engines.subspace.tiny_problem import TinyProblem, dense_sampler, half_voxels, tiny_problem


@pytest.fixture(params=[4, 17], scope="module")
def problem(request: pytest.FixtureRequest) -> TinyProblem:
    return tiny_problem(n_columns=request.param)


@pytest.mark.parametrize("form", ["gram", "gram_torch"])
def test_inner_products_equal_those_of_dense_matrices(problem: TinyProblem, form: str) -> None:
    inner, cross = getattr(problem.operators, form)(problem.components, problem.n_columns, problem.chunk)
    model = problem.model()
    expected = np.einsum("bmi,bmj->bij", model.conj(), model).real
    assert np.allclose(inner, expected, atol=2e-5 * np.abs(expected).max())
    expected = np.einsum("bmi,bm->bi", model.conj(), problem.data).real
    assert np.allclose(cross, expected, atol=2e-5 * np.abs(expected).max())


def random_moments(problem: TinyProblem) -> Tensor:
    """(B, Q, Q) second moments of weights whose first is 1."""
    generator = torch.Generator().manual_seed(7)
    n, q = len(problem.chunk.rows), problem.n_columns
    factor = torch.randn(n, q, q, generator=generator)
    mean = torch.cat([torch.ones(n, 1), torch.randn(n, q - 1, generator=generator)], 1)
    spread = factor @ factor.mT
    spread[:, 0] = spread[:, :, 0] = 0
    return spread + mean[:, :, None] * mean[:, None, :]


def equations(problem: TinyProblem, form: str = "accumulate", bounds: Tensor | None = None) -> tuple[Tensor, Tensor]:
    grid, n, q = problem.operators.grid, len(problem.chunk.rows), problem.n_columns
    weight = torch.zeros(2, grid.n_voxels, padded(q * (q + 1) // 2))
    right = torch.zeros(2, grid.n_voxels, 2, padded(q))
    particle_scale = torch.linspace(0.5, 1.5, n, dtype=torch.float64)
    half_set = torch.arange(n) % 2
    arguments = [problem.components, problem.chunk, particle_scale, half_set, random_moments(problem), weight, right]
    if form == "accumulate":
        arguments.append(torch.tensor([0, 2 * grid.half + 1]) if bounds is None else bounds)
    getattr(problem.operators, form)(*arguments)
    return weight, right


@pytest.mark.parametrize("form", ["accumulate", "accumulate_torch"])
def test_normal_equations_equal_those_of_dense_matrices(problem: TinyProblem, form: str) -> None:
    """Sums over the coefficients of the whole plane, as seen from every voxel of the half-volume."""
    weight, right = equations(problem, form)
    grid, q = problem.operators.grid, problem.n_columns
    particle_scale = np.linspace(0.5, 1.5, len(problem.chunk.rows))
    moments = random_moments(problem).double().numpy()
    gain = problem.whitened_ctf * particle_scale[:, None]
    n = len(gain)
    # A coefficient and its partner -k hold the same: both reach the voxels on their side, on x = 0 both reach all.
    n_lattice = problem.sampler.shape[2]
    mirror = np.arange(n_lattice)[::-1]  # voxel -v
    terms = problem.sampler @ problem.lattice
    rest = gain[..., None] * (problem.data - gain * problem.base_at)[..., None] * moments[:, None, 0]
    rest = rest - gain[..., None] ** 2 * np.einsum("bmk,bkj->bmj", terms, moments)
    for half in (0, 1):
        grid.add_partners(weight[half], right[half])
        heavy, right_side = np.zeros((n_lattice, q, q)), np.zeros((n_lattice, q), complex)
        for i in range(half, n, 2):
            w = problem.sampler[i]
            along = (w + w[:, mirror]).T @ gain[i] ** 2
            heavy += along[:, None, None] * moments[i]
            right_side += w.T @ rest[i] + (w.T @ rest[i]).conj()[mirror]
        place = half_voxels(grid)
        rows, columns = torch.triu_indices(q, q)
        expected = heavy[place][:, rows, columns]
        got = weight[half][:, : len(rows)].numpy()
        assert np.allclose(got, expected, atol=1e-5 * np.abs(expected).max())
        assert not weight[half][:, len(rows) :].any()
        expected = right_side[place]
        got = right[half][..., :q].numpy()
        assert np.allclose(got[:, 0] + 1j * got[:, 1], expected, atol=1e-5 * np.abs(expected).max())
        assert not right[half][..., q:].any()


def test_voxels_beyond_the_band_are_the_only_ones_that_are_left_out(problem: TinyProblem) -> None:
    """Every corner that a point inside the sphere touches is in the list, with its own number."""
    place = set(half_voxels(problem.operators.grid).tolist())
    h = problem.operators.grid.half
    x = np.arange((2 * h + 1) ** 3) % (2 * h + 1) - h
    flipped = np.where(problem.points[..., :1] < 0, -1, 1) * problem.points
    inside = (flipped**2).sum(2) <= problem.operators.limit2
    touched = (dense_sampler(flipped[inside], h, 1.0) > 0).any(0) & (x >= 0)
    assert set(np.flatnonzero(touched).tolist()) <= place


@pytest.mark.parametrize("slabs", [2, 3, 5])
def test_sums_do_not_depend_on_the_number_of_slabs(problem: TinyProblem, slabs: int) -> None:
    once = equations(problem)
    planes = 2 * problem.operators.grid.half + 1
    bounds = torch.linspace(0, planes, slabs + 1).round().long()
    for one, many in zip(once, equations(problem, bounds=bounds), strict=True):
        assert torch.equal(one, many)


def test_empty_slabs_do_no_harm(problem: TinyProblem) -> None:
    planes = 2 * problem.operators.grid.half + 1
    for one, many in zip(
        equations(problem), equations(problem, bounds=torch.tensor([0, 0, 4, 4, planes, planes])), strict=True
    ):
        assert torch.equal(one, many)


def inner_of_many(problem: TinyProblem, threads: int) -> tuple[Tensor, Tensor]:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        chunk = replace(problem.chunk)  # sorted anew
        return problem.operators.gram(problem.components, problem.n_columns, chunk)
    finally:
        torch.set_num_threads(before)


def test_inner_products_do_not_depend_on_threads(problem: TinyProblem) -> None:
    for one, many in zip(inner_of_many(problem, 1), inner_of_many(problem, 3), strict=True):
        assert torch.equal(one, many)


@pytest.mark.parametrize("form", [solve, solve_torch])
def test_step_of_each_voxel_solves_its_equations(problem: TinyProblem, form: object) -> None:
    weight, right = equations(problem)
    grid, q = problem.operators.grid, problem.n_columns
    w, r = weight[0] + weight[1], right[0] + right[1]
    generator = torch.Generator().manual_seed(3)
    precision = 0.5 + torch.rand(grid.radius + 1, q, generator=generator, dtype=torch.float64)
    floor = torch.full((grid.radius + 1, q), 2.0, dtype=torch.float64)
    got = form(w, r, problem.components, precision, floor, grid.shell)  # type: ignore[operator]
    rows, columns = np.triu_indices(q)
    for v in range(0, grid.n_voxels, 5):
        matrix = np.zeros((q, q))
        matrix[rows, columns] = matrix[columns, rows] = w[v, : len(rows)]
        s = int(grid.shell[v])
        diagonal = np.maximum(np.diag(matrix), floor[s].numpy()) * (1 + RIDGE) + precision[s].numpy()
        np.fill_diagonal(matrix, diagonal)
        present = problem.components[v, :, :q].double().numpy()
        step = np.linalg.solve(matrix, (r[v, :, :q].double().numpy() - precision[s].numpy() * present).T).T
        assert np.allclose(got[v, :, :q], present + step, rtol=1e-4, atol=1e-4)
        assert not got[v, :, q:].any()


@pytest.mark.parametrize("form", [solve, solve_torch])
def test_singular_equations_give_finite_steps(form: object) -> None:
    """Weights that are all one latent direction: rank one, and rounding that makes it slightly indefinite."""
    q = 5
    u = torch.tensor([1.0, 2.0, -1.0, 0.5, 3.0]) * 1e3
    rows, columns = torch.triu_indices(q, q).unbind(0)
    weight = torch.zeros(1, padded(q * (q + 1) // 2))
    weight[0, : len(rows)] = (u[:, None] * u)[rows, columns]
    weight[0, 1] *= 1 + 1e-6
    right = torch.zeros(1, 2, 16)
    right[..., :q] = u
    none = torch.zeros(1, q, dtype=torch.float64)
    out = form(weight, right, torch.zeros(1, 2, 16), none, none + 1e-20, torch.zeros(1, dtype=torch.long))  # type: ignore[operator]
    assert torch.isfinite(out).all()
    assert out.abs().max() < 1


def test_points_that_are_not_numbers_are_left_out(problem: TinyProblem) -> None:
    planes = problem.chunk.planes.clone()
    planes[0, 0, 0] = float("nan")
    broken = replace(problem.chunk, planes=planes)
    inner, _ = problem.operators.gram(problem.components, problem.n_columns, broken)
    assert torch.isfinite(inner[1:]).all()
    assert torch.isfinite(inner[0]).all()


def test_tiles_hold_every_coefficient_that_counts_once_and_in_order(problem: TinyProblem) -> None:
    operators, chunk = problem.operators, problem.chunk
    tiles = operators.tiles(chunk)
    image, coefficient = tiles.order.long() >> tiles.bits, tiles.order.long() & ((1 << tiles.bits) - 1)
    inside = (problem.points**2).sum(2) <= operators.limit2
    expected = (torch.from_numpy(inside) & (chunk.whitened_ctf != 0)).nonzero()
    listed = torch.stack([image, coefficient], 1)
    assert sorted(listed.tolist()) == expected.tolist()
    assert torch.equal(tiles.start[1:, 0], tiles.start[:-1, -1])
    for begin, end in zip(tiles.start[:, 0].tolist(), tiles.start[:, -1].tolist(), strict=True):
        assert listed[begin:end].tolist() == sorted(listed[begin:end].tolist())


def test_coefficients_lie_in_their_cubes(problem: TinyProblem) -> None:
    operators, chunk = problem.operators, problem.chunk
    radius2, half = float(operators.limit2), operators.grid.half
    tiles = Tiles.sort(operators.kxy, chunk.planes, chunk.whitened_ctf, radius2, half)
    image, coefficient = tiles.order.long() >> tiles.bits, tiles.order.long() & ((1 << tiles.bits) - 1)
    points = problem.points[image, coefficient]
    points = np.where(points[:, :1] < 0, -points, points)
    cell = np.floor(points.astype(np.float32) + np.array([0, half, half])).astype(int) // EDGE
    along, along_x = 2 * half // EDGE + 1, half // EDGE + 1
    number = (cell[:, 2] * along + cell[:, 1]) * along_x + cell[:, 0]
    ends = tiles.start[:, -1].numpy()
    surely = np.abs(points - np.round(points)).min(1) > 1e-4  # on a face, rounding decides
    assert np.array_equal(number[surely], np.searchsorted(ends, np.arange(len(number)), side="right")[surely])

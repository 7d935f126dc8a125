from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.fourier import kernels
from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.fourier.slices import (
    FourierAccumulator,
    FourierGrid,
    FourierVolume,
    friedel_sum,
    grid_to_map,
    gridding_correction,
    insert_torch,
    map_to_grid,
    slice_points,
    slice_torch,
)
from tests.fourier.specimens import Blobs, blobs

D = 32


def _rotations(count: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(Rotation.random(count, random_state=seed).as_matrix())


def _random_half_volume(grid: FourierGrid, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.complex(torch.randn(grid.shape, generator=generator), torch.randn(grid.shape, generator=generator))


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().pow(2).sum().sqrt() / b.abs().pow(2).sum().sqrt())


def test_points_are_the_transposed_rotation_of_the_image_plane() -> None:
    rotation = _rotations(4)
    kxy = HalfPlane(D, 5).kxy
    points = slice_points(kxy, rotation)
    for b in range(4):
        for m, (kx, ky) in enumerate(kxy.tolist()):
            expected = rotation[b].T @ torch.tensor([kx, ky, 0.0], dtype=torch.float64)
            torch.testing.assert_close(points[b, m], expected)


def test_a_matrix_acts_on_the_frequencies_before_the_rotation() -> None:
    rotation = _rotations(3)
    kxy = HalfPlane(D, 6).kxy
    matrix = torch.tensor([[1.02, 0.01], [-0.03, 0.97]], dtype=torch.float64)
    expected = slice_points(kxy.double() @ matrix.T, rotation)
    torch.testing.assert_close(slice_points(kxy, rotation, matrix), expected)
    torch.testing.assert_close(slice_points(kxy, rotation, matrix.expand(3, 2, 2)), expected)


@pytest.mark.parametrize("radius", [D // 2, D // 2 - 1, 5])
@pytest.mark.parametrize("oversampling", [1, 2, 3])
def test_grid_is_the_direct_transform(radius: int, oversampling: int) -> None:
    d = 8
    radius = min(radius, d // 2)
    grid = FourierGrid(d, radius, oversampling)
    volume = np.random.default_rng(1).normal(size=(d, d, d))
    x = np.arange(d) - d // 2
    kz = np.arange(-grid.half, grid.half + 1) / oversampling
    wave = np.exp(-2j * np.pi * np.outer(kz, x) / d)
    expected = np.einsum("az,by,cx,zyx->abc", wave, wave, wave[grid.half :], volume)
    np.testing.assert_allclose(map_to_grid(torch.from_numpy(volume), grid).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("oversampling", [1, 2])
def test_grid_to_map_inverts_map_to_grid_for_band_limited_maps(oversampling: int) -> None:
    grid = FourierGrid(64, 32, oversampling)
    narrow = blobs(2, spread_px=3.0)
    smooth = Blobs(narrow.centres, narrow.widths + 1.0, narrow.weights).density(64)
    torch.testing.assert_close(grid_to_map(map_to_grid(smooth, grid), grid), smooth, atol=1e-6, rtol=0)


def test_nyquist_is_counted_once() -> None:
    grid = FourierGrid(16, 8, 1)
    wave = torch.cos(math.pi * torch.arange(16, dtype=torch.float64))
    for axis in range(3):
        volume = wave.reshape([-1 if a == axis else 1 for a in range(3)]).expand(16, 16, 16)
        torch.testing.assert_close(grid_to_map(map_to_grid(volume, grid), grid), volume, atol=1e-9, rtol=0)


def test_slice_at_identity_is_the_transform_of_the_projection_along_z() -> None:
    volume = blobs(3, spread_px=3.0).density(D)
    plane = HalfPlane(D, D // 2 - 1)
    grid = FourierGrid(D, D // 2 - 1)
    raw = FourierVolume(grid, map_to_grid(volume.float(), grid))  # on grid points nothing is interpolated
    found = raw.slice(slice_points(plane.kxy, torch.eye(3)[None]))[0]
    expected = plane.from_images(volume.sum(0)[None])[0]
    assert _relative(found.to(torch.complex128), expected) < 1e-6


def test_quarter_turn_about_z_turns_the_image() -> None:
    volume = blobs(4, spread_px=3.0).density(D)
    plane = HalfPlane(D, D // 2 - 1)
    grid = FourierGrid(D, D // 2 - 1)
    raw = FourierVolume(grid, map_to_grid(volume.float(), grid))
    quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # R x = y: a point at +x lands at +y
    image = plane.to_images(raw.slice(slice_points(plane.kxy, quarter[None])))[0]
    projection = plane.to_images(plane.from_images(volume.sum(0)[None]))[0]
    turned = torch.zeros_like(projection)
    for y in range(1, D):  # pixel (x, y) about the centre moves to (-y, x); row and column 0 have no image
        for x in range(1, D):
            turned[x, D - y] = projection[y, x]
    assert _relative(image[1:, 1:].double(), turned[1:, 1:]) < 2e-3


@pytest.mark.parametrize("oversampling", [2, 3])
def test_slices_agree_with_the_continuous_transform_of_the_specimen(oversampling: int) -> None:
    specimen = blobs(5)
    d = 64
    plane = HalfPlane(d, 25)
    volume = FourierVolume.from_map(specimen.density(d), oversampling=oversampling, radius=26)
    points = slice_points(plane.kxy, _rotations(5, seed=1)).float()
    found = volume.slice(points)
    for image, where in zip(found, points, strict=True):
        expected = torch.from_numpy(specimen.transform(where.double().numpy(), d))
        correlation = (image * expected.conj()).real.sum() / (image.abs().norm() * expected.abs().norm())
        assert correlation > 0.999
        assert _relative(image.to(torch.complex128), expected) < (0.03 if oversampling == 2 else 0.015)


def test_gridding_correction_improves_off_centre_density() -> None:
    d = 64
    specimen = blobs(6, spread_px=9.0)
    grid = FourierGrid(d, 25)
    points = slice_points(HalfPlane(d, 24).kxy, _rotations(3, seed=2)).float()
    expected = torch.from_numpy(specimen.transform(points.double().reshape(-1, 3).numpy(), d)).reshape(3, -1)
    corrected = FourierVolume.from_map(specimen.density(d), radius=25).slice(points)
    plain = FourierVolume(grid, map_to_grid(specimen.density(d).float(), grid)).slice(points)
    assert _relative(corrected.to(torch.complex128), expected) < 0.7 * _relative(plain.to(torch.complex128), expected)


def test_gridding_correction_is_squared_sinc_of_the_radius() -> None:
    found = gridding_correction(8, 2)
    assert found[4, 4, 4] == 1
    r = math.sqrt(3**2 + 1**2 + 2**2) / 16
    assert found[4 + 3, 4 - 1, 4 + 2] == pytest.approx((math.sin(math.pi * r) / (math.pi * r)) ** 2, rel=1e-6)


def _brute_force_slice(data: torch.Tensor, grid: FourierGrid, points: torch.Tensor) -> torch.Tensor:
    values = []
    for point in points.tolist():
        x, y, z = (c * grid.oversampling for c in point)
        flip = x < 0
        if flip:
            x, y, z = -x, -y, -z
        total = 0j
        for iz in (math.floor(z), math.floor(z) + 1):
            for iy in (math.floor(y), math.floor(y) + 1):
                for ix in (math.floor(x), math.floor(x) + 1):
                    weight = (1 - abs(x - ix)) * (1 - abs(y - iy)) * (1 - abs(z - iz))
                    total += weight * complex(data[iz + grid.half, iy + grid.half, ix])
        values.append(total.conjugate() if flip else total)
    return torch.tensor(values, dtype=torch.complex128)


@pytest.mark.parametrize("oversampling", [1, 2, 3])
def test_both_slicers_agree_with_loops(oversampling: int) -> None:
    grid = FourierGrid(D, 9, oversampling)
    data = _random_half_volume(grid)
    points = slice_points(HalfPlane(D, 9).kxy, _rotations(2)).reshape(-1, 3)
    expected = _brute_force_slice(data, grid, points)
    assert _relative(slice_torch(data, grid, points.float()).to(torch.complex128), expected) < 1e-5
    assert _relative(FourierVolume(grid, data).slice(points.float()).to(torch.complex128), expected) < 1e-5


def test_friedel_partners_are_conjugate() -> None:
    volume = FourierVolume.from_map(blobs(7).density(D), radius=10)
    points = slice_points(HalfPlane(D, 10).kxy, _rotations(3)).float()
    torch.testing.assert_close(volume.slice(-points), volume.slice(points).conj(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("form", ["kernel", "torch"])
def test_points_outside_the_sphere_and_not_a_number_give_zero(form: str) -> None:
    grid = FourierGrid(D, 6)
    data = _random_half_volume(grid)
    points = torch.tensor([[6.1, 0.0, 0.0], [0.0, -7.0, 0.0], [1e9, 0.0, 0.0], [math.nan, 0.0, 0.0], [3.0, 3.0, 3.0]])
    found = FourierVolume(grid, data).slice(points) if form == "kernel" else slice_torch(data, grid, points)
    assert (found[:4] == 0).all()
    assert found[4].abs() > 0
    # a point on the rim that rounding moved outwards by 1e-5 still counts
    rim = torch.tensor([[0.0, 6.00001, 0.0], [0.0, 0.0, -6.00001]])
    values = FourierVolume(grid, data).slice(rim) if form == "kernel" else slice_torch(data, grid, rim)
    torch.testing.assert_close(values[0], data[grid.half, grid.half + 12, 0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("radius", [4, 9, 15])
def test_insert_is_the_transpose_of_slice(radius: int) -> None:
    grid = FourierGrid(D, radius)
    data = _random_half_volume(grid)
    points = slice_points(HalfPlane(D, radius).kxy, _rotations(6)).float()
    generator = torch.Generator().manual_seed(3)
    values = torch.complex(
        torch.randn(points.shape[:-1], generator=generator), torch.randn(points.shape[:-1], generator=generator)
    )
    sums = FourierAccumulator(grid, dtype=torch.float64)
    sums.insert(points, values, torch.ones(points.shape[:-1]))
    forward = (FourierVolume(grid, data).slice(points).to(torch.complex128) * values.conj()).real.sum()
    backward = (data.to(torch.complex128) * sums.numerator.conj()).real.sum()
    torch.testing.assert_close(forward, backward, rtol=1e-5, atol=1e-4)


def test_both_inserters_agree_and_weights_add_up() -> None:
    grid = FourierGrid(D, 12)
    points = slice_points(HalfPlane(D, 14).kxy, _rotations(5)).float()  # some points lie outside
    generator = torch.Generator().manual_seed(4)
    values = torch.complex(
        torch.randn(points.shape[:-1], generator=generator), torch.randn(points.shape[:-1], generator=generator)
    )
    weights = torch.rand(points.shape[:-1], generator=generator)
    fast, plain = FourierAccumulator(grid), FourierAccumulator(grid, dtype=torch.float64)
    fast.insert(points, values, weights)
    insert_torch(plain.numerator, plain.weight, grid, points, values, weights)
    assert _relative(fast.numerator.to(torch.complex128), plain.numerator) < 1e-6
    assert _relative(fast.weight.double(), plain.weight) < 1e-6
    inside = points.norm(dim=-1) <= 12.0005
    torch.testing.assert_close(plain.weight.sum(), weights[inside].double().sum(), rtol=1e-6, atol=1e-6)


def test_insert_is_bit_identical_for_any_number_of_threads() -> None:
    grid = FourierGrid(D, 15)
    points = slice_points(HalfPlane(D, 15).kxy, _rotations(40)).float()
    values = torch.randn(points.shape[:-1], dtype=torch.complex64, generator=torch.Generator().manual_seed(5))
    weights = values.abs()
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            sums = FourierAccumulator(grid)
            sums.insert(points, values, weights)
            results.append(sums)
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert torch.equal(other.numerator, results[0].numerator)
        assert torch.equal(other.weight, results[0].weight)


@pytest.mark.parametrize("slabs", [1, 2, 3, 7])
def test_slabs_cover_every_plane_once(slabs: int) -> None:
    points = slice_points(HalfPlane(D, 9).kxy, _rotations(10)).float().reshape(-1, 3)
    bounds = kernels._slabs(points, 2, FourierGrid(D, 9).shape[0], slabs)
    assert bounds[0] == 0
    assert bounds[-1] == FourierGrid(D, 9).shape[0]
    assert len(bounds) == slabs + 1
    assert (np.diff(bounds) >= 0).all()


def test_backprojection_of_all_directions_restores_the_map() -> None:
    specimen = blobs(8, spread_px=3.0)
    volume = specimen.density(D)
    plane = HalfPlane(D, 11)
    grid = FourierGrid(D, 11)
    points = slice_points(plane.kxy, _rotations(1500, seed=3)).float()
    exact = torch.from_numpy(specimen.transform(points.double().reshape(-1, 3).numpy(), D)).reshape(points.shape[:-1])
    sums = FourierAccumulator(grid)
    sums.insert(points, exact.to(torch.complex64), torch.ones(points.shape[:-1]))
    numerator, weight = friedel_sum(sums.numerator), friedel_sum(sums.weight.to(torch.complex64)).real
    ratio = torch.where(weight > 1e-3, numerator / weight.clamp(min=1e-3), 0)
    found = grid_to_map(ratio, grid) / gridding_correction(D, 2)
    band = FourierGrid(D, 11)
    expected = grid_to_map(map_to_grid(volume, band), band)
    correlation = torch.corrcoef(torch.stack([found.flatten().double(), expected.flatten()]))[0, 1]
    assert correlation > 0.999


def test_friedel_sum_makes_the_plane_x_0_hermitian() -> None:
    out = friedel_sum(_random_half_volume(FourierGrid(D, 4)))
    plane = out[..., 0]
    torch.testing.assert_close(plane, plane.flip(0, 1).conj())


def test_sums_add_and_refuse_another_grid() -> None:
    grid = FourierGrid(D, 8)
    points = slice_points(HalfPlane(D, 8).kxy, _rotations(4)).float()
    values = torch.randn(points.shape[:-1], dtype=torch.complex64, generator=torch.Generator().manual_seed(6))
    whole, first, second = (FourierAccumulator(grid, dtype=torch.float64) for _ in range(3))
    whole.insert(points, values, values.abs())
    first.insert(points[:2], values[:2], values[:2].abs())
    second.insert(points[2:], values[2:], values[2:].abs())
    first += second
    torch.testing.assert_close(first.numerator, whole.numerator)
    torch.testing.assert_close(first.weight, whole.weight)
    with pytest.raises(ValueError, match="cannot add sums"):
        first += FourierAccumulator(FourierGrid(D, 7))


def test_slice_is_differentiable_with_respect_to_the_volume() -> None:
    grid = FourierGrid(8, 3, 1)
    data = torch.randn(grid.shape, dtype=torch.complex128, requires_grad=True)
    points = slice_points(HalfPlane(8, 3).kxy, _rotations(2))
    assert torch.autograd.gradcheck(lambda half: slice_torch(half, grid, points), (data,))
    single = data.detach().to(torch.complex64).requires_grad_()
    FourierVolume(grid, single).slice(points).abs().sum().backward()
    assert single.grad is not None
    assert single.grad.abs().sum() > 0


def test_shapes_that_do_not_fit_are_refused() -> None:
    grid = FourierGrid(D, 5)
    with pytest.raises(ValueError, match="shape"):
        FourierVolume(grid, torch.zeros(3, 3, 3, dtype=torch.complex64))
    with pytest.raises(ValueError, match="shape"):
        map_to_grid(torch.zeros(D, D, D + 1), grid)
    with pytest.raises(ValueError, match="shape of the"):
        FourierAccumulator(grid).insert(torch.zeros(4, 3), torch.zeros(3, dtype=torch.complex64), torch.zeros(4))
    for wrong in ({"box_size": 7}, {"radius": D}, {"oversampling": 0}):
        with pytest.raises(ValueError, match="must"):
            FourierGrid(**{"box_size": D, "radius": 5, "oversampling": 2} | wrong)


@pytest.mark.parametrize("count", [0, 1])
def test_empty_and_single_batches(count: int) -> None:
    grid = FourierGrid(D, 5)
    points = torch.zeros(count, 3)
    data = _random_half_volume(grid)
    assert FourierVolume(grid, data).slice(points).shape == (count,)
    assert slice_torch(data, grid, points).shape == (count,)
    sums = FourierAccumulator(grid)
    sums.insert(points, torch.ones(count, dtype=torch.complex64), torch.ones(count))
    assert sums.weight.sum() == count

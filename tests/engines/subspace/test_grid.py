"""The compact half-sphere: complete, invertible, and the same voxels in every band."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cryodrgn_ext.engines.subspace.grid import ComponentGrid, padded
from cryodrgn_ext.fourier.slices import RIM


def smooth_map(box: int, radius: int, seed: int = 0) -> Tensor:
    """A real map whose transform ends at ``radius``."""
    volume = torch.randn(box, box, box, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    spectrum = torch.fft.fftn(volume)
    k = torch.fft.fftfreq(box, 1 / box)
    norm2 = k[:, None, None] ** 2 + k[:, None] ** 2 + k**2
    return torch.fft.ifftn(spectrum * (norm2 <= radius**2)).real


@pytest.mark.parametrize(("box", "radius"), [(8, 3), (12, 5), (16, 4), (16, 7)])
def test_map_and_component_are_inverse_within_the_band(box: int, radius: int) -> None:
    grid = ComponentGrid(box, radius)
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(grid.n_voxels, 2, generator=generator)
    own, partner = grid.meridian
    values[own] = 0.5 * (values[own] + torch.tensor([1.0, -1.0]) * values[partner])
    values[grid.norm > radius] = 0
    volume = grid.to_map(values)
    assert volume.shape == (box, box, box)
    assert torch.allclose(grid.from_map(volume), values, atol=1e-4)
    assert torch.allclose(grid.to_map(grid.from_map(volume)), volume, atol=1e-5 * float(volume.abs().max()))


def test_interpolated_component_is_the_transform_of_its_map() -> None:
    """Slices of the component show the map that ``to_map`` returns: bead by bead, off the grid points."""
    box, radius = 24, 9
    grid = ComponentGrid(box, radius)
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    volume = torch.exp(-((x - 1.0) ** 2 + (y + 2.0) ** 2 + z**2) / 4.5)
    values = grid.from_map(volume)
    points = torch.tensor([[1.3, 0.4, -2.2], [0.2, -3.7, 1.1], [4.5, 2.5, 0.5]])
    for point in points:
        low = point.floor().long()
        f = point - low
        got = torch.zeros(2)
        for dx, dy, dz in torch.cartesian_prod(*[torch.tensor([0, 1])] * 3).tolist():
            weight = (f[0] if dx else 1 - f[0]) * (f[1] if dy else 1 - f[1]) * (f[2] if dz else 1 - f[2])
            row = grid.table[low[2] + dz + grid.half, low[1] + dy + grid.half]
            got += weight * values[row + low[0] + dx]
        phase = -2 * torch.pi * (x * point[0] + y * point[1] + z * point[2]) / box
        exact = torch.stack([(volume * phase.cos()).sum(), (volume * phase.sin()).sum()])
        assert torch.allclose(got.double(), exact, atol=0.02 * float(volume.sum()))


@pytest.mark.parametrize("radius", [1, 3, 6])
def test_all_corners_of_all_points_in_the_sphere_are_in_the_list(radius: int) -> None:
    grid = ComponentGrid(16, radius)
    g = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(4000, 3, generator=g), dim=1)
    direction[:6] = torch.cat([torch.eye(3), -torch.eye(3)])
    length = (radius + RIM) * torch.rand(4000, 1, generator=g) ** (1 / 3)
    length[:500] = radius + 0.9 * RIM
    points = direction * length
    points = torch.where(points[:, :1] < 0, -points, points)
    low = points.floor().long()
    fraction = points - low
    where = {tuple(c): v for v, c in enumerate(grid.coordinates.tolist())}
    for dx, dy, dz in torch.cartesian_prod(*[torch.tensor([0, 1])] * 3).tolist():
        weight = torch.ones(len(points))
        for step, part in zip((dx, dy, dz), fraction.unbind(1), strict=True):
            weight = weight * (part if step else 1 - part)
        voxel = grid.table[low[:, 2] + dz + grid.half, low[:, 1] + dy + grid.half] + low[:, 0] + dx
        assert 0 <= int(voxel.min()) <= int(voxel.max()) < grid.n_voxels
        for p in (weight > 0).nonzero()[:, 0].tolist():
            corner = (int(low[p, 2]) + dz, int(low[p, 1]) + dy, int(low[p, 0]) + dx)
            assert where[corner] == int(voxel[p])


def test_voxels_stand_for_the_whole_sphere() -> None:
    radius = 6
    k = torch.arange(-radius, radius + 1)
    inside = (k[:, None, None] ** 2 + k[:, None] ** 2 + k**2 <= radius**2).sum()
    assert float(ComponentGrid(16, radius).multiplicity.sum()) == float(inside)


@pytest.mark.parametrize(("low", "high"), [(3, 7), (7, 3), (5, 5), (1, 6)])
def test_components_keep_their_values_in_another_band(low: int, high: int) -> None:
    a, b = ComponentGrid(16, low), ComponentGrid(16, high)
    values = torch.randn(a.n_voxels, 2, 16, generator=torch.Generator().manual_seed(2))
    moved = a.moved_to(values, b)
    assert moved.shape == (b.n_voxels, 2, 16)
    where = {tuple(c): v for v, c in enumerate(a.coordinates.tolist())}
    for v, c in enumerate(b.coordinates.tolist()):
        old = where.get(tuple(c))
        assert torch.equal(moved[v], torch.zeros(2, 16) if old is None else values[old])


def test_maps_survive_the_change_of_band() -> None:
    a, b = ComponentGrid(16, 4), ComponentGrid(16, 7)
    values = a.from_map(smooth_map(16, 4))
    assert torch.allclose(b.to_map(a.moved_to(values, b)), a.to_map(values), atol=1e-6)


def test_shell_mean_is_the_mean_over_shells() -> None:
    grid = ComponentGrid(12, 4)
    ones = torch.ones(grid.n_voxels, 3)
    assert torch.equal(grid.shell_mean(ones), torch.ones(5, 3, dtype=torch.float64))
    assert torch.allclose(grid.shell_mean(grid.shell[:, None].float())[:, 0], torch.arange(5, dtype=torch.float64))


@pytest.mark.parametrize(("count", "expected"), [(1, 16), (16, 16), (17, 32), (33, 48)])
def test_padding_is_the_next_multiple(count: int, expected: int) -> None:
    assert padded(count) == expected

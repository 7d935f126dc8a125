"""Analytic slices of Gaussians against a rendered volume and against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.fourier import gaussians
from cryodrgn_ext.fourier.gaussians import gaussian_sections, gaussian_spectrum
from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.fourier.slices import FourierGrid

BOX = 24


def _model(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    positions = 3 * torch.randn(count, 3, generator=random, dtype=torch.float64)
    amplitudes = 1 + torch.rand(count, generator=random, dtype=torch.float64)
    rotation = torch.from_numpy(Rotation.random(3, random_state=5).as_matrix())
    return positions.clamp(-5, 5), amplitudes, rotation


def test_sections_are_those_of_the_rendered_volume() -> None:
    """The sum over the voxels of a rendered map, at every frequency of three poses, in float64."""
    positions, amplitudes, rotation = _model(12)
    width = 1.3
    kxy = torch.cartesian_prod(torch.arange(0, 9), torch.arange(-8, 9))
    axis = np.arange(BOX) - BOX // 2
    voxels = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)[:, ::-1]  # x, y, z
    density = np.zeros(len(voxels))
    for centre, amplitude in zip(positions.numpy(), amplitudes.numpy(), strict=True):
        squared = ((voxels - centre) ** 2).sum(axis=1)
        density += amplitude * np.exp(-squared / (2 * width**2)) / (2 * np.pi * width**2) ** 1.5
    expected = []
    for matrix in rotation.numpy():
        seen = voxels @ matrix.T
        expected.append([(density * np.exp(-2j * np.pi / BOX * (seen[:, :2] @ k))).sum() for k in kxy.numpy()])
    planes, wide = rotation[:, :2], torch.tensor(width).double()
    sections = gaussian_sections(kxy, planes, positions, amplitudes, wide, BOX).numpy()
    error = np.linalg.norm(sections - np.array(expected)) / np.linalg.norm(expected)
    assert error < 1e-3


def test_sections_are_the_transform_at_their_points_also_where_the_magnification_is_not_even() -> None:
    """The sum over Gaussians at every point by itself, in float64."""
    positions, amplitudes, rotation = _model(12)
    plane = HalfPlane(BOX, 7)
    stretch = torch.tensor([[1.04, 0.02], [0.02, 0.97]], dtype=torch.float64)
    width = torch.tensor(1.3, dtype=torch.float64)
    for planes in (rotation[:, :2], stretch @ rotation[:, :2]):
        points = torch.einsum("mc,bci->bmi", plane.kxy.double(), planes) / BOX
        phase = torch.exp(-2j * np.pi * torch.einsum("bmi,ni->bmn", points, positions))
        falloff = torch.exp(-2 * np.pi**2 * width**2 * points.square().sum(-1))
        expected = falloff * (phase @ amplitudes.to(torch.complex128))
        found = gaussian_sections(plane.kxy, planes, positions, amplitudes, width, BOX)
        torch.testing.assert_close(found, expected)


def test_gradients_are_finite_differences() -> None:
    """Of positions of each image's own, amplitudes and width, in float64."""
    positions, amplitudes, rotation = _model(3)
    own = positions.expand(3, 3, 3).clone().requires_grad_()
    width = torch.tensor(1.1, dtype=torch.float64, requires_grad=True)
    kxy = torch.cartesian_prod(torch.tensor([0, 3]), torch.tensor([-2, 0, 3]))

    def sections(where: torch.Tensor, how_much: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(gaussian_sections(kxy, rotation[:, :2], where, how_much, wide, BOX))

    assert torch.autograd.gradcheck(sections, (own, amplitudes.requires_grad_(), width))


def test_a_spectrum_is_the_sum_of_its_gaussians(monkeypatch: pytest.MonkeyPatch) -> None:
    """At every point of an oversampled grid, with widths of their own, in pieces, in float64."""
    positions, amplitudes, _ = _model(5)
    widths = torch.linspace(0.5, 1.5, 5, dtype=torch.float64)
    grid = FourierGrid(BOX, 4, 2)
    k = np.arange(-grid.half, grid.half + 1) / 2
    kz, ky, kx = np.meshgrid(k, k, k[grid.half :], indexing="ij")
    expected = np.zeros(grid.shape, complex)
    for (x, y, z), amplitude, width in zip(positions.tolist(), amplitudes.tolist(), widths.tolist(), strict=True):
        falloff = np.exp(-2 * (np.pi * width / BOX) ** 2 * (kx**2 + ky**2 + kz**2))
        expected += amplitude * falloff * np.exp(-2j * np.pi / BOX * (kx * x + ky * y + kz * z))
    whole = gaussian_spectrum(grid, positions, amplitudes, widths)
    np.testing.assert_allclose(whole.numpy(), expected, atol=1e-10)
    monkeypatch.setattr(gaussians, "PHASES_AT_ONCE", 2 * len(k) ** 2)
    np.testing.assert_allclose(gaussian_spectrum(grid, positions, amplitudes, widths).numpy(), expected, atol=1e-10)

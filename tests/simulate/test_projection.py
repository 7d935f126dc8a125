from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cryodrgn_ext.simulate.projection import bead_volume, project_beads

D = 32


def images_of(position_px: torch.Tensor, sigma_px: float = 1.5, box_size: int = D) -> torch.Tensor:
    weight = torch.ones(position_px.shape[:2])
    return torch.fft.irfft2(project_beads(position_px, weight, sigma_px, box_size), s=(box_size, box_size))


def test_single_bead_lands_at_its_position_and_keeps_its_mass() -> None:
    position = torch.tensor([[[5.25, -3.5]], [[0.0, 0.0]], [[-7.0, 7.75]]])
    images = images_of(position).double()
    axis = torch.arange(D).double() - D // 2
    assert torch.allclose(images.sum((1, 2)), torch.ones(3).double(), atol=1e-5)
    assert torch.allclose((images.sum(1) * axis).sum(1), position[:, 0, 0].double(), atol=1e-3)  # x: columns
    assert torch.allclose((images.sum(2) * axis).sum(1), position[:, 0, 1].double(), atol=1e-3)  # y: rows


def test_projection_equals_a_sum_of_gaussians_in_real_space() -> None:
    generator = torch.Generator().manual_seed(1)
    position = torch.rand((3, 40, 2), generator=generator) * 14 - 7
    weight = torch.rand((3, 40), generator=generator)
    sigma = 1.6
    axis = torch.arange(D).double() - D // 2
    x = torch.exp(-((axis - position[..., 0, None]) ** 2) / (2 * sigma**2))
    y = torch.exp(-((axis - position[..., 1, None]) ** 2) / (2 * sigma**2))
    expected = torch.einsum("bn,bni,bnj->bij", weight.double(), y, x) / (2 * math.pi * sigma**2)
    got = torch.fft.irfft2(project_beads(position, weight, sigma, D), s=(D, D))
    assert torch.allclose(got.double(), expected, atol=2e-5 * float(expected.max()))


def test_result_does_not_depend_on_the_size_of_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    position = torch.rand((9, 50, 2), generator=torch.Generator().manual_seed(2)) * 10 - 5
    whole = images_of(position)
    monkeypatch.setattr("cryodrgn_ext.simulate.projection.BEAD_WAVES_AT_ONCE", 1)
    assert torch.allclose(whole, images_of(position), atol=1e-6)


def test_volume_sums_to_its_projections_and_axes_are_z_y_x() -> None:
    generator = torch.Generator().manual_seed(3)
    position = torch.rand((60, 3), generator=generator) * 16 - 8
    weight = torch.rand(60, generator=generator)
    volume = bead_volume(position, weight, 1.5, D)
    for summed_axis, (across, down) in {0: (0, 1), 1: (0, 2), 2: (1, 2)}.items():
        seen = torch.fft.irfft2(project_beads(position[None][..., [across, down]], weight[None], 1.5, D), s=(D, D))[0]
        assert torch.allclose(volume.sum(summed_axis), seen, atol=1e-4)


def test_single_bead_volume_peaks_at_the_voxel_of_the_bead() -> None:
    volume = bead_volume(torch.tensor([[4.0, -2.0, 7.0]]), torch.ones(1), 1.2, D).numpy()
    peak = tuple(map(int, np.unravel_index(volume.argmax(), volume.shape)))
    assert peak == (D // 2 + 7, D // 2 - 2, D // 2 + 4)

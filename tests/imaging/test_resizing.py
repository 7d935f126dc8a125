"""Cropping in Fourier space is sampling, for maps that the coarser grid can hold."""

from __future__ import annotations

import pytest
import torch

from cryodrgn_ext.imaging.resizing import crop_map


def gaussian(box: int, extent_A: float, center_A: tuple[float, float, float], sd_A: float) -> torch.Tensor:
    axis = (torch.arange(box) - box // 2) * (extent_A / box)
    z, y, x = ((axis - c) ** 2 for c in center_A)
    return torch.exp(-(z[:, None, None] + y[None, :, None] + x[None, None, :]) / (2 * sd_A**2))


@pytest.mark.parametrize("native", [48, 45])
def test_a_smooth_density_is_sampled_at_the_same_places_with_the_same_values(native: int) -> None:
    center = (7.0, -9.0, 4.0)
    fine, coarse = gaussian(native, 96.0, center, 8.0), gaussian(32, 96.0, center, 8.0)
    torch.testing.assert_close(crop_map(fine, 32), coarse, atol=2e-4, rtol=0)


def test_the_same_box_changes_nothing() -> None:
    volume = torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(crop_map(volume, 16), volume)


@pytest.mark.parametrize("box", [18, 15, 0])
def test_boxes_that_make_no_sense_are_refused(box: int) -> None:
    with pytest.raises(ValueError, match="cannot crop"):
        crop_map(torch.zeros(16, 16, 16), box)

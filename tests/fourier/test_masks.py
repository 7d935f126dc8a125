from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.masks import default_threshold, soft_circle, spherical_mask, threshold_mask
from tests.fourier.specimens import blobs

D = 32


def _plain_edge(r: float, radius: float, edge: float) -> float:
    if r <= radius:
        return 1.0
    return 0.0 if r >= radius + edge else 0.5 * (1 + math.cos(math.pi * (r - radius) / edge))


def test_round_masks_agree_with_loops() -> None:
    d = 10
    circle, sphere = soft_circle(d, 2.5, 1.5), spherical_mask(d, 2.5, 1.5)
    for iy in range(d):
        for ix in range(d):
            r = math.hypot(ix - 5, iy - 5)
            assert float(circle[iy, ix]) == pytest.approx(_plain_edge(r, 2.5, 1.5), abs=1e-6)
            for iz in range(d):
                r3 = math.sqrt((ix - 5) ** 2 + (iy - 5) ** 2 + (iz - 5) ** 2)
                assert float(sphere[iz, iy, ix]) == pytest.approx(_plain_edge(r3, 2.5, 1.5), abs=1e-6)


def test_no_edge_is_a_step() -> None:
    sphere = spherical_mask(D, 8.0, 0.0)
    assert set(sphere.unique().tolist()) == {0.0, 1.0}
    assert sphere.sum() == pytest.approx(4 / 3 * math.pi * 8**3, rel=0.03)


def test_dilation_agrees_with_a_structuring_ball() -> None:
    volume = blobs(0, spread_px=3.0).density(D)
    pixel_size_A, dilation_A = 4.0, 12.0
    mask = threshold_mask(volume, pixel_size_A, threshold=0.8, dilation_A=dilation_A, edge_A=8.0).numpy()
    reach = 3
    grid = np.arange(-reach, reach + 1)
    ball = grid[:, None, None] ** 2 + grid[None, :, None] ** 2 + grid[None, None, :] ** 2 <= reach**2
    dilated = ndimage.binary_dilation(volume.numpy() > 0.8, structure=ball)
    np.testing.assert_array_equal(mask == 1.0, dilated)
    outer = np.arange(-5, 6)
    outer_ball = outer[:, None, None] ** 2 + outer[None, :, None] ** 2 + outer[None, None, :] ** 2 < 5**2
    np.testing.assert_array_equal(mask > 1e-7, ndimage.binary_dilation(volume.numpy() > 0.8, structure=outer_ball))


def test_mask_lies_in_the_unit_interval_and_holds_the_density() -> None:
    volume = blobs(1, spread_px=3.0).density(D)
    mask = threshold_mask(volume, 3.0)
    assert mask.dtype == torch.float32
    assert mask.shape == volume.shape
    assert mask.min() >= 0
    assert mask.max() == 1
    assert (mask[volume > default_threshold(volume)] == 1).all()
    bigger = threshold_mask(volume, 3.0, dilation_A=30.0)
    assert (bigger >= mask).all()
    assert bigger.sum() > mask.sum()


def test_edge_is_a_cosine_of_the_distance() -> None:
    volume = torch.zeros(D, D, D)
    volume[D // 2, D // 2, D // 2] = 1.0
    mask = threshold_mask(volume, 2.0, threshold=0.5, dilation_A=6.0, edge_A=10.0)
    torch.testing.assert_close(mask, spherical_mask(D, 3.0, 5.0))


def test_default_threshold_is_half_the_percentile() -> None:
    volume = torch.arange(10**6, dtype=torch.float64).reshape(100, 100, 100)
    assert default_threshold(volume) == pytest.approx(0.5 * 0.9999 * (10**6 - 1))


def test_maps_without_density_are_refused_in_one_sentence() -> None:
    with pytest.raises(InputError, match="no voxel of the map lies above the mask threshold 5 "):
        threshold_mask(torch.ones(8, 8, 8), 1.0, threshold=5.0)
    with pytest.raises(InputError, match="needs positive density"):
        threshold_mask(-torch.ones(8, 8, 8), 1.0)

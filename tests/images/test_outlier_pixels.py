"""Outlier pixels: found in any place and number that damage has, replaced, and nothing else touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cryodrgn_ext.images.background import BackgroundSurface
from cryodrgn_ext.images.outlier_pixels import outlier_threshold, repair_outliers, suspicious_images

BOX, RADIUS = 48, 18
BACKGROUND = BackgroundSurface.make(BOX, RADIUS)
THRESHOLD = outlier_threshold(2000 * BOX**2, torch.full((9,), 4.0))
Y, X = np.mgrid[:BOX, :BOX] - BOX // 2
FloatArray = NDArray[np.float64]


def noise(n: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(size=(n, BOX, BOX))


def repaired(images: FloatArray, threshold: float = THRESHOLD) -> tuple[FloatArray, list[int]]:
    """What the two steps make of images, and the number of pixels found in each."""
    given = torch.from_numpy(images.astype(np.float32))
    rows = suspicious_images(BACKGROUND.level(given), BACKGROUND, threshold)
    found = repair_outliers(given[rows], BACKGROUND, threshold)
    count = torch.zeros(len(given), dtype=torch.int64)
    count[rows] = found.count
    given[rows] = found.images
    return given.double().numpy(), count.tolist()


@pytest.mark.parametrize("height", [9.0, -9.0, 3000.0, -1e6, np.nan, np.inf])
@pytest.mark.parametrize("place", [(0, 0), (24, 24), (47, 30)])
def test_a_pixel_is_found_and_takes_the_median_around(height: float, place: tuple[int, int]) -> None:
    before = noise(3)
    images = before.copy()
    images[(1, *place)] = height
    after, count = repaired(images)
    assert count == [0, 1, 0]
    assert abs(after[(1, *place)]) < 1.0
    changed = np.zeros_like(images, dtype=bool)
    changed[(1, *place)] = True
    assert np.abs(after - before)[~changed].max() < 1e-4


@pytest.mark.parametrize("column", [0, 3, 24])
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_a_dead_column_is_replaced_whatever_its_weight_in_the_standard_deviation(column: int, scale: float) -> None:
    images = scale * noise(2) + 500.0 + scale * 0.1 * X
    images[1, :, column] = 0.0
    after, count = repaired(images)
    assert count == [0, BOX]
    around = 500.0 + scale * 0.1 * X[:, column]
    assert np.abs(after[1, :, column] - around).max() < 1.2 * scale


def test_a_speck_of_dust_on_a_ramp() -> None:
    images = noise(2) + 0.4 * X + 0.2 * Y
    images[1, 10:13, 30:32] -= 60.0
    after, count = repaired(images)
    assert count == [0, 6]
    rest = after[1] - 0.4 * X - 0.2 * Y
    assert np.abs(rest[10:13, 30:32]).max() < 1.0


def test_noise_of_many_images_and_strong_particles_stay() -> None:
    assert repaired(noise(500))[1] == [0] * 500
    blob = np.exp(-0.5 * ((X / 3.0) ** 2 + (Y / 5.0) ** 2))
    images = noise(20, seed=1) + 25.0 * np.random.default_rng(2).uniform(0.6, 1.4, (20, 1, 1)) * blob
    threshold = outlier_threshold(2000 * BOX**2, torch.full((9,), 25.0))
    assert repaired(images, threshold)[1] == [0] * 20


def test_ice_and_lines_wider_than_dust_stay() -> None:
    images = noise(3)
    images[0] += 200.0 * np.exp(-0.5 * ((X - 10) ** 2 + Y**2) / 25.0)
    images[1, :, 20:30] += 80.0
    images[2, 30:] += 50.0
    after, count = repaired(images)
    assert max(count) < 0.05 * BOX**2
    assert np.abs(after - images)[0].max() < 100.0


def test_counts_in_few_steps_are_not_taken_for_outliers() -> None:
    images = np.round(0.4 * noise(50))
    assert repaired(images)[1] == [0] * 50
    images[3, 5, 5] = 100.0
    assert repaired(images)[1] == [0, 0, 0, 1, *[0] * 46]


def test_an_image_that_is_nothing_but_damage_is_lost() -> None:
    images = noise(3)
    images[1, ::3, ::2] = 1e5
    images[2] = np.nan
    given = torch.from_numpy(images.astype(np.float32))
    found = repair_outliers(given, BACKGROUND, THRESHOLD)
    assert found.is_lost.tolist() == [False, True, True]
    assert found.not_finite.tolist() == [0, 0, BOX**2]


def test_threshold_follows_the_number_of_pixels_and_what_images_reach() -> None:
    usual = torch.full((20,), 4.0)
    assert 6.0 < outlier_threshold(10_000_000, usual) < outlier_threshold(10_000_000_000, usual) < 8.0
    assert outlier_threshold(1000, torch.full((20,), 30.0)) == pytest.approx(48.0)
    various = torch.linspace(5.0, 15.0, 101)
    assert outlier_threshold(1000, various) == pytest.approx(12.5 + 5 * 2.5)
    damaged = torch.cat([torch.full((80,), 4.0), torch.full((19,), 3000.0), torch.full((1,), torch.nan)])
    assert outlier_threshold(1000, damaged) < 7.0

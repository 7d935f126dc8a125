"""Maps are brought back onto a reference: any rotation, shift and hand, with noise, in other boxes."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryodrgn_ext.fourier.fsc import fsc
from cryodrgn_ext.fourier.shells import half_volume_norm
from cryodrgn_ext.pose.coordinate_transform import CoordinateTransform
from cryodrgn_ext.pose.map_alignment import align_maps, fit_to_box
from cryodrgn_ext.simulate.projection import bead_volume

BOX = 32


@functools.cache
def beads() -> tuple[np.ndarray, np.ndarray]:
    """A chain of beads without symmetry, within 10 voxels."""
    rng = np.random.default_rng(4)
    steps = rng.normal(0, 1.6, (60, 3))
    points = np.cumsum(steps, axis=0) * np.exp(-np.arange(60) / 120)[:, None]
    points -= points.mean(0)
    return points * (8.0 / np.linalg.norm(points, axis=1).max()), rng.uniform(0.5, 1.5, 60)


def volume(*transforms: CoordinateTransform) -> Tensor:
    """Density of the beads, moved exactly by one transform after the other."""
    moved, weight = beads()
    for transform in transforms:
        moved = transform.points(moved)
    return bead_volume(torch.from_numpy(moved), torch.from_numpy(weight), 1.0, BOX).float()


def some_transform(seed: int, mirrored: bool, most_px: float = 3.0) -> CoordinateTransform:
    rng = np.random.default_rng(seed)
    return CoordinateTransform(
        Rotation.random(random_state=seed).as_matrix(), rng.uniform(-most_px, most_px, 3), mirrored
    )


def with_noise(clean: Tensor, times: float, seed: int) -> Tensor:
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    return clean + times * float(clean.std()) * noise


def low_passed(given: Tensor, radius: float) -> Tensor:
    spectrum = torch.fft.rfftn(given) * (half_volume_norm(BOX) <= radius)
    return torch.fft.irfftn(spectrum, s=given.shape)


def angle_deg(found: CoordinateTransform, expected: CoordinateTransform) -> float:
    return float(np.degrees(Rotation.from_matrix(found.rotation @ expected.rotation.T).magnitude()))


@pytest.mark.parametrize(("seed", "mirrored"), [(1, False), (2, True), (3, True)])
def test_a_moved_map_is_brought_back(seed: int, mirrored: bool) -> None:
    transform = some_transform(seed, mirrored)
    found = align_maps(volume(transform), volume())
    expected = transform.inverse()
    assert found.transform.mirrored is mirrored
    assert angle_deg(found.transform, expected) < 0.3
    assert np.linalg.norm(found.transform.shift_px - expected.shift_px) < 0.05
    assert found.correlation > 0.98
    assert found.other_hand is not None
    assert found.other_hand < 0.9 * found.correlation
    assert fsc(volume(transform, found.transform), volume())[1 : BOX // 4].min() > 0.98


def test_noise_and_a_low_passed_reference_do_not_mislead() -> None:
    transform = some_transform(8, True)
    found = align_maps(with_noise(volume(transform), 0.5, 0), low_passed(volume(), 6.0), radius=12)
    expected = transform.inverse()
    assert found.transform.mirrored
    assert angle_deg(found.transform, expected) < 1.5
    assert np.linalg.norm(found.transform.shift_px - expected.shift_px) < 0.3


def test_one_hand_when_asked() -> None:
    found = align_maps(volume(some_transform(2, True)), volume(), both_hands=False)
    assert not found.transform.mirrored
    assert found.other_hand is None
    assert found.correlation < 0.9


def test_maps_of_different_boxes_are_refused() -> None:
    with pytest.raises(ValueError, match="of one shape"):
        align_maps(volume(), volume()[:-2, :-2, :-2])


@pytest.mark.parametrize(("box", "pixel_size_A"), [(32, 3.0), (45, 2.0), (40, 3.0), (26, 3.0), (21, 4.5)])
def test_a_reference_of_another_box_and_pixel_size_fits(box: int, pixel_size_A: float) -> None:
    """The same beads on another grid, odd boxes too, against the exact density; 3 Å a voxel here."""
    points, weight = beads()
    even = box + box % 2
    scaled = torch.from_numpy(points * 3.0 / pixel_size_A)
    given = bead_volume(scaled, torch.from_numpy(weight), 3.0 / pixel_size_A, even).float()
    given = given[even - box :, even - box :, even - box :].contiguous()  # the origin stays at voxel B // 2
    found = fit_to_box(given, pixel_size_A, BOX, 3.0)
    reach = BOX // 2 if pixel_size_A <= 3 else 9
    assert fsc(found, volume())[1 : reach - 2].min() > 0.97
    assert float(found.sum()) == pytest.approx(float(given.sum()) * (pixel_size_A / 3.0) ** 3, rel=0.04)

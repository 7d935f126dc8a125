"""The Fourier crop is a downsampling, and the working geometry says what fits."""

from __future__ import annotations

import pytest
import torch

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.images.geometry import WorkingGeometry, crop_index, crop_transform


def band_limited(box: int) -> torch.Tensor:
    """The same smooth function sampled on any box, centred on pixel box // 2."""
    x = (torch.arange(box, dtype=torch.float64) - box // 2) / box
    y = x[:, None]
    return (torch.cos(2 * torch.pi * (3 * x + 2 * y)) + 0.5 * torch.sin(2 * torch.pi * (5 * y - x)) + 2)[None]


def test_crop_keeps_pixel_values() -> None:
    plane = HalfPlane(16, 7)
    index, sign = crop_index(plane, 40)
    cropped = crop_transform(band_limited(40), index, sign) * (16 / 40) ** 2
    assert torch.allclose(plane.to_images(cropped), band_limited(16), atol=1e-10)


def test_frequencies_beyond_the_native_box_are_absent() -> None:
    plane = HalfPlane(32, 15)
    index, sign = crop_index(plane, 16)
    images = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    values = crop_transform(images, index, sign)
    assert bool((values[:, plane.kxy.abs().amax(1) >= 8] == 0).all())
    native = HalfPlane(16, 7)
    assert torch.allclose(values[:, : native.n_coefficients], native.from_images(images), atol=1e-5)


@pytest.mark.parametrize(
    ("boxes", "working", "radius", "pattern"),
    [
        ([33], None, None, "33 px wide: only even boxes"),
        ([32], 64, None, "working box of 64 px is larger than the images"),
        ([32], 16, 9, r"radius must lie in 1..8"),
        ([32, 31], None, None, "31 px wide"),
    ],
)
def test_what_does_not_fit_is_refused(boxes: list[int], working: int | None, radius: int | None, pattern: str) -> None:
    with pytest.raises(InputError, match=pattern):
        WorkingGeometry.make(boxes, [1.0] * len(boxes), working, radius)


def test_geometry_of_groups_with_different_extent() -> None:
    geometry = WorkingGeometry.make([64, 96, 64], [2.0, 1.0, 2.0], 32, reference=0)
    assert geometry.pixel_size_A == 4.0
    first, second, third = geometry.groups
    assert first == third
    assert first.frequency_scale == 1.0
    assert first.max_radius == 16
    assert second.frequency_scale == pytest.approx(128 / 96)
    assert second.pixel_size_A == pytest.approx(3.0)
    assert second.max_radius == pytest.approx(16 * 96 / 128)  # the model's sphere ends there
    assert first.value_scale == pytest.approx((1 / 2) ** 3)  # half the box: an eighth of the voxels

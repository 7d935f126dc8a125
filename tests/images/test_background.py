"""The plane through the background: exact, blind to the particle, and what relion_preprocess subtracts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from cryodrgn_ext.images.background import BackgroundSurface

BOX, RADIUS = 32, 12


def raw_images(n: int = 4, slope: float = 0.0, level: float = 5000.0, dtype: type = np.float32) -> torch.Tensor:
    """Noise of spread 3 on ramps, with a particle in the middle."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:BOX, :BOX] - BOX // 2
    ramp = slope * (rng.normal(size=(n, 1, 1)) * x + rng.normal(size=(n, 1, 1)) * y)
    images = level + ramp + 3 * rng.normal(size=(n, BOX, BOX))
    images[:, 12:20, 12:20] += 40.0
    return torch.from_numpy(images.astype(dtype).astype(np.float32))


def least_squares(image: np.ndarray) -> np.ndarray:
    """One image without the plane outside the circle, in units of what is left there, by lstsq in float64."""
    y, x = np.mgrid[:BOX, :BOX] - BOX // 2
    outside = np.hypot(x, y) > RADIUS
    plane = np.stack([np.ones_like(x), x, y], axis=-1).astype(float)
    rest = image - plane @ np.linalg.lstsq(plane[outside], image[outside], rcond=None)[0]
    return rest / rest[outside].std()


@pytest.mark.parametrize("slope", [0.0, 0.3, 30.0])
def test_the_plane_is_that_of_least_squares(slope: float) -> None:
    images = raw_images(slope=slope)
    levelled = BackgroundSurface.make(BOX, RADIUS).level(images)
    for image, found in zip(images.double().numpy(), levelled.normalised().numpy(), strict=True):
        assert np.abs(found - least_squares(image)).max() < 2e-3
    y, x = torch.meshgrid(*(torch.arange(BOX) / (BOX / 2) - 1,) * 2, indexing="ij")
    plane = (
        levelled.plane[:, 0, None, None] + levelled.plane[:, 1, None, None] * x + levelled.plane[:, 2, None, None] * y
    )
    assert torch.allclose(levelled.images + plane, images, atol=2e-2)


def test_normalised_images_stay_as_they_are() -> None:
    background = BackgroundSurface.make(BOX, RADIUS)
    once = background.level(raw_images(slope=1.0)).normalised()
    again = background.level(once)
    assert torch.allclose(once, again.normalised(), atol=1e-4)
    assert again.plane.abs().max() < 1e-4


@pytest.mark.parametrize("unit", [1e-33, 1e-20, 1e20, 1e33])
def test_the_unit_of_the_files_does_not_matter(unit: float) -> None:
    background, images = BackgroundSurface.make(BOX, RADIUS), raw_images(slope=1.0, level=0.0)
    expected, levelled = background.level(images), background.level(images * unit)
    assert torch.allclose(levelled.normalised(), expected.normalised(), atol=1e-3)
    assert not levelled.is_constant.any()


def test_a_high_level_is_no_constant_background() -> None:
    """Counts of 5 million that spread by 3 are rounded to halves in single precision; what is left are images."""
    background = BackgroundSurface.make(BOX, RADIUS)
    high = background.level(raw_images(level=5e6))
    assert not high.is_constant.any()
    expected = background.level(raw_images(level=0.0)).normalised()
    correlation = torch.nn.functional.cosine_similarity(high.normalised().flatten(1), expected.flatten(1))
    assert correlation.min() > 0.99
    ramp = torch.arange(BOX, dtype=torch.float32).expand(2, BOX, BOX)
    for constant in (torch.full((2, BOX, BOX), 5000.3), 1234.567 + 0.37 * ramp, torch.zeros(2, BOX, BOX)):
        assert background.level(constant).is_constant.all()


def test_a_block_gives_what_single_images_give() -> None:
    background, images = BackgroundSurface.make(BOX, RADIUS), raw_images(n=9, slope=1.0)
    single = torch.cat([background.level(image[None]).normalised() for image in images])
    assert torch.allclose(single, background.level(images).normalised(), atol=1e-4)


def test_images_without_noise_are_constant_on_any_plane() -> None:
    y, x = torch.meshgrid(*(torch.arange(BOX, dtype=torch.float32),) * 2, indexing="ij")
    images = torch.stack([torch.zeros(BOX, BOX), torch.full((BOX, BOX), 3.3), 5000 + 7 * x - 2 * y])
    assert BackgroundSurface.make(BOX, RADIUS).level(images).is_constant.tolist() == [True] * 3
    assert not BackgroundSurface.make(BOX, RADIUS).level(raw_images()).is_constant.any()


@pytest.mark.relion
@pytest.mark.parametrize("ramp", [False, True])
def test_relion_preprocess_subtracts_the_same_plane(tmp_path: Path, ramp: bool) -> None:
    images = raw_images(slope=1.0 if ramp else 0.0, level=50.0)
    with mrcfile.new(tmp_path / "raw.mrcs") as file:
        file.set_data(images.numpy())
    command = ["relion_preprocess", "--operate_on", "raw.mrcs", "--operate_out", "norm.mrcs", "--norm"]
    subprocess.run([*command, "--bg_radius", str(RADIUS)], cwd=tmp_path, check=True, capture_output=True)
    with mrcfile.open(tmp_path / "norm.mrcs", permissive=True) as file:
        theirs = torch.from_numpy(np.array(file.data))
    ours = BackgroundSurface.make(BOX, RADIUS).level(images)
    assert torch.allclose(ours.normalised(), theirs, atol=2e-3)
    if ramp:
        assert ours.plane[:, 1:].abs().min() > 1

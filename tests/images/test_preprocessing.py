"""Normalisation and window; relion_preprocess is the witness of the normalisation."""

from __future__ import annotations

import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.preprocessing import (
    PreprocessSettings,
    image_window,
    normalise_background,
    outside_circle,
)


def raw_images(n: int = 4, box: int = 32) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    images = 5000 + 3 * torch.randn(n, box, box, generator=g)
    images[:, 12:20, 12:20] += 40.0
    return images


def test_background_has_mean_0_and_spread_1_whatever_the_counts_and_the_particle() -> None:
    images = raw_images()
    background = outside_circle(32, 12)
    normalised, mean, sd = normalise_background(images, background)
    pixels = normalised[:, background].double()
    assert pixels.mean(1).abs().max() < 1e-3
    assert (pixels.std(1) - 1).abs().max() < 1e-3
    assert torch.allclose(normalised * sd[:, None, None] + mean[:, None, None], images, atol=1e-2)


def test_normalised_images_stay_as_they_are() -> None:
    background = outside_circle(32, 12)
    once, _, _ = normalise_background(raw_images(), background)
    twice, _, _ = normalise_background(once, background)
    assert torch.allclose(once, twice, atol=1e-4)


@pytest.mark.relion
def test_relion_preprocess_normalises_alike(tmp_path: Path) -> None:
    images = raw_images()
    with mrcfile.new(tmp_path / "raw.mrcs") as file:
        file.set_data(images.numpy())
    command = ["relion_preprocess", "--operate_on", "raw.mrcs", "--operate_out", "norm.mrcs", "--norm"]
    subprocess.run([*command, "--bg_radius", "12", "--no_ramp"], cwd=tmp_path, check=True, capture_output=True)
    with mrcfile.open(tmp_path / "norm.mrcs", permissive=True) as file:
        theirs = torch.from_numpy(np.array(file.data))
    ours, _, _ = normalise_background(images, outside_circle(32, 12))
    assert torch.allclose(ours, theirs, atol=2e-3)


def test_the_window_keeps_the_particle_and_clears_the_corners() -> None:
    window = image_window(PreprocessSettings(mask_diameter_A=80.0), 64, 2.0)
    assert window[32, 32] == 1
    assert window[32, 32 + 20] == 1
    assert 0 < window[32, 32 + 22] < 1
    assert window[0, 0] == 0
    assert torch.equal(image_window(PreprocessSettings(window=False), 16, 1.0), torch.ones(16, 16))
    assert 0.6 < float(image_window(PreprocessSettings(), 64, 2.0).mean()) < 0.78


def test_a_mask_larger_than_the_box_is_refused() -> None:
    with pytest.raises(InputError, match=r"mask diameter of 200 Å exceeds the images \(64 px of 2 Å = 128 Å\)"):
        image_window(PreprocessSettings(mask_diameter_A=200.0), 64, 2.0)


@pytest.mark.parametrize(
    ("setting", "pattern"),
    [
        ({"box_size": 33}, "even number"),
        ({"box_size": 4}, "at least 8"),
        ({"background_radius": 0.6}, "0.1 to 0.49"),
        ({"mask_diameter_A": -1.0}, "positive"),
        ({"data_sign": "grey"}, "auto, white or black"),
        ({"storage": "int8"}, "float16 or float32"),
    ],
)
def test_bad_settings_are_refused(setting: dict[str, object], pattern: str) -> None:
    with pytest.raises(InputError, match=pattern):
        PreprocessSettings(**setting)  # type: ignore[arg-type]

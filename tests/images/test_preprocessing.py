"""The window, and settings that are refused."""

from __future__ import annotations

import pytest
import torch

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.preprocessing import PreprocessSettings, image_window


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

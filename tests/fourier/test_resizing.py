from __future__ import annotations

import numpy as np
import pytest
import torch

from cryodrgn_ext.fourier.resizing import crop_map
from tests.fourier.specimens import Blobs, blobs


@pytest.mark.parametrize("box_size", [32, 40])
def test_a_smooth_map_is_resampled_about_the_same_centre(box_size: int) -> None:
    d = 64
    narrow = blobs(0)
    fine = Blobs(narrow.centres, narrow.widths + 2.0, narrow.weights)
    coarse = Blobs(fine.centres * box_size / d, fine.widths * box_size / d, fine.weights)
    found = crop_map(fine.density(d), box_size)
    torch.testing.assert_close(found.double(), coarse.density(box_size), atol=2e-3, rtol=0)


def test_the_same_box_is_the_same_map_and_impossible_boxes_are_refused() -> None:
    volume = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 8, 8)))
    assert torch.equal(crop_map(volume, 8), volume.float())
    for box_size in (7, 10, 0):
        with pytest.raises(ValueError, match="cannot crop"):
            crop_map(volume, box_size)

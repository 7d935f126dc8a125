"""Half-maps: independent, honest about noise, Wiener-filtered towards the truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.fsc import fsc
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.reconstruction.half_maps import default_fsc_mask, reconstruct_half_maps
from tests.reconstruction.specimens import BOX, PIXEL_A, density, images_of


@pytest.fixture(scope="module")
def noisy() -> ParticleImages:
    return images_of(density(), 1000, noise=6.0)


def test_fsc_predicts_the_agreement_with_the_truth(noisy: ParticleImages) -> None:
    result = reconstruct_half_maps(noisy)
    truth = density()
    found = fsc(torch.from_numpy(result.map), truth, default_fsc_mask(BOX))
    agreement = result.fsc.clip(0, 1)
    expected = np.sqrt(2 * agreement / (1 + agreement))  # Rosenthal and Henderson 2003
    shells = np.flatnonzero(result.fsc[:15] > 0.5)
    assert len(shells) > 6
    assert np.abs(found - expected)[shells].max() < 0.08
    assert 2 * PIXEL_A < result.resolution_A < 10 * PIXEL_A
    assert abs(result.fsc[-1]) < 0.1  # nothing is left at Nyquist


def test_the_filtered_map_is_nearer_to_the_truth_than_the_plain_one(noisy: ParticleImages) -> None:
    result = reconstruct_half_maps(noisy)
    truth = density().numpy()
    plain = (result.half1 + result.half2) / 2
    assert ((result.map - truth) ** 2).sum() < 0.7 * ((plain - truth) ** 2).sum()


def test_halves_do_not_share_images(noisy: ParticleImages) -> None:
    everything = reconstruct_half_maps(noisy)
    rows = torch.arange(1000)
    fewer = rows[(noisy.half_set[rows] == 1) | (rows < 400)]
    part = reconstruct_half_maps(noisy, fewer)
    assert np.array_equal(part.half1, everything.half1)
    assert not np.array_equal(part.half2, everything.half2)


def test_pure_noise_has_no_resolution() -> None:
    result = reconstruct_half_maps(images_of(torch.zeros(BOX, BOX, BOX), 400, noise=1.0))
    assert np.abs(result.fsc[4:15]).max() < 0.3
    assert result.resolution_A > 8 * PIXEL_A
    assert np.abs(result.map).max() < 0.5 * np.abs(result.half1).max()


def test_a_subset_in_one_half_is_refused(noisy: ParticleImages) -> None:
    rows = torch.arange(0, 20, 2)
    with pytest.raises(InputError, match="half-set 2 has none of the 10 particles"):
        reconstruct_half_maps(noisy, rows)
    with pytest.raises(InputError, match="half-set 1 has none of the 2 particles"):
        reconstruct_half_maps(noisy, torch.arange(2), torch.tensor([0.0, 1.0]))

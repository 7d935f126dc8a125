"""The decoder as the search sees it: what is interpolated is what the decoder says, for one volume and for many."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.engines.neural.layers import feature_frequencies
from cryodrgn_ext.engines.neural.model import Observation
from cryodrgn_ext.engines.neural.pair_vae import PairVaeModel
from cryodrgn_ext.engines.neural.pose_search_model import DecoderModel, nearest_latents, render, search_models
from cryodrgn_ext.engines.neural.power_envelope import power_envelope
from cryodrgn_ext.engines.neural.vae import VaeModel
from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.pose.model import points_on
from tests.pose.phantoms import phantom

BOX, RADIUS, BAND = 48, 20, 10
KINKS = 0.08  # of a random network, which belong to density far outside the box


def make_model(zdim: int, kind: type[VaeModel] = VaeModel) -> VaeModel:
    """Random weights; as a Hartley decoder, which is the spectrum of a real volume without being trained."""
    torch.manual_seed(0)
    frequencies = feature_frequencies("gaussian", BOX, 0.5, torch.Generator().manual_seed(0))
    return kind(zdim, torch.full((RADIUS + 1,), 2.0), frequencies, 30, (1, 16), (2, 32), "hartley", 1.0)


def planes(n: int) -> torch.Tensor:
    return torch.from_numpy(Rotation.random(n, rng=3).as_matrix()).float()[:, :2]


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(((a - b).abs().square().sum() / b.abs().square().sum()).sqrt())


def test_rendered_volume_is_sliced_as_the_decoder_is_evaluated() -> None:
    model = make_model(2)
    kxy = HalfPlane(BOX, BAND).kxy
    z = torch.tensor([[0.3, -1.0], [1.5, 0.2]])
    points = points_on(planes(40), kxy)
    for row, (volume, _) in zip(z, render(model, z, BAND), strict=True):
        exact = model.spectrum(points.reshape(-1, 3), row[None]).view(points.shape[:2])
        assert relative_error(volume.slice(points), exact) < KINKS


def test_each_image_is_held_against_the_volume_of_its_own_latent() -> None:
    model = make_model(2)
    z = torch.randn(3, 2, generator=torch.Generator().manual_seed(1))
    decoder = DecoderModel(model, z)
    kxy = HalfPlane(BOX, BAND).kxy
    rows, shared = torch.tensor([2, 0]), planes(8)
    own = decoder.own(rows, shared.expand(2, 8, 2, 3), kxy)
    for place, row in enumerate(rows.tolist()):
        exact = model.spectrum(points_on(shared, kxy).reshape(-1, 3), z[row][None]).view(8, -1)
        torch.testing.assert_close(own[place], exact, rtol=1e-4, atol=1e-4)
    assert relative_error(decoder.shared(shared, kxy).of(rows), own) < KINKS


def test_images_that_share_volumes_are_all_served_once() -> None:
    model = make_model(2)
    z = torch.randn(30, 2, generator=torch.Generator().manual_seed(1))
    parts = list(search_models(model, z, BAND, 4, 0))
    assert sorted(torch.cat([part.rows for part in parts]).tolist()) == list(range(30))
    assert len(parts) <= 4
    assert all(isinstance(part.slices, FourierVolume) for part in parts)
    (one,) = search_models(make_model(0), torch.zeros(30, 0), BAND, 4, 0)
    assert isinstance(one.slices, FourierVolume)
    assert len(one.rows) == 30
    assert one.volume is not None
    points = points_on(planes(4), HalfPlane(BOX, BAND).kxy)
    again = FourierVolume.from_map(one.volume)
    torch.testing.assert_close(again.slice(points), one.slices.slice(points), rtol=1e-3, atol=1e-3)


def test_clusters_of_latents_get_a_centre_each() -> None:
    middle = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    truth = torch.arange(90) % 3
    z = middle[truth] + 0.1 * torch.randn(90, 2, generator=torch.Generator().manual_seed(0))
    centres, label = nearest_latents(z, 3, seed=0)
    for number in range(3):
        assert len(set(label[truth == number].tolist())) == 1
    assert float(torch.cdist(middle, centres).min(1).values.max()) < 0.2
    centres, label = nearest_latents(torch.ones(5, 2), 3, seed=0)
    assert len(centres) == 1


@pytest.mark.parametrize("swap", [False, True])
def test_pairs_have_one_latent_that_hears_both_images(swap: bool) -> None:
    model = make_model(2, PairVaeModel)
    rng = torch.Generator().manual_seed(2)
    values = torch.complex(torch.randn(8, 40, generator=rng), torch.randn(8, 40, generator=rng))
    changed = values.clone()
    changed[5 if swap else 1] *= 2.0  # an image of the second particle
    means = []
    for data in (values, changed):
        observation = Observation(
            data, torch.ones(8, 40), torch.zeros(8, 40, 3), torch.zeros(40).long(), torch.ones(40), 30
        )
        means.append(model.encode(observation)[0].detach())
    assert means[0].shape == (4, 2)
    for before, after in pairwise(means):
        assert ((before - after).abs().sum(1) > 1e-4).tolist() == [False, True, False, False]


def test_magnitude_of_the_signal_is_found_without_poses() -> None:
    truth = phantom(400, box_size=32, snr=0.3)
    found = power_envelope(truth.images, 15)
    kxy = HalfPlane(32, 15).kxy
    shell = HalfPlane(32, 15).shell
    power = truth.volume.slice(points_on(planes(200), kxy)).abs().square().mean(0)
    expected = (torch.zeros(16).index_add_(0, shell, power) / torch.bincount(shell)).sqrt()
    strong = expected > 0.05 * expected.max()
    ratio = (found / expected)[strong]
    assert int(strong.sum()) >= 5
    assert float(ratio.min()) > 0.8
    assert float(ratio.max()) < 1.4


def test_images_with_less_power_than_their_noise_give_the_level_of_the_noise() -> None:
    truth = phantom(10, box_size=16, snr=1.0)
    nothing = ParticleImages.from_tensors(
        torch.zeros(10, 16, 16), truth.rotation, truth.shift_px, 6.0, None, pixel_noise_sd=2.0
    )
    torch.testing.assert_close(power_envelope(nothing, 7), torch.full((8,), 2.0 * 16))

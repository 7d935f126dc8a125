"""What the truth allows: exact inference is calibrated, and true labels give the best maps that images have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from cryodrgn_ext.analysis.cryobench import fsc_auc, perfect_auc
from cryodrgn_ext.analysis.exact_inference import images_for_inference, log_evidence, state_posterior
from cryodrgn_ext.analysis.true_labels import TrueLabels
from cryodrgn_ext.fourier.point_groups import C1
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.coefficient_source import ResidentCoefficients
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.simulate.projection import bead_volume

BOX, N = 20, 600


def maps(shifts: list[float]) -> np.ndarray:
    """A body, and a domain that is displaced."""
    body = torch.tensor([[-3.0, 0, 0], [0, 2, 1], [0, -2, -1]])
    return np.stack([
        bead_volume(torch.cat([body, torch.tensor([[4.0, shift, 0.0]])]), torch.ones(4), 1.5, BOX).numpy()
        for shift in shifts
    ])  # fmt: skip


def made(
    volumes: np.ndarray, state: np.ndarray, noise: float, unit: float = 1.0, spread: float = 0.0
) -> ParticleImages:
    """Images of states with white noise, at random poses, by way of Fourier slices."""
    rng = np.random.default_rng(3)
    rotation = torch.from_numpy(np.linalg.qr(rng.normal(size=(len(state), 3, 3)))[0]).float()
    rotation[torch.linalg.det(rotation) < 0, 2] *= -1
    blank = torch.zeros(len(state), BOX, BOX)
    images = ParticleImages.from_tensors(blank, rotation, torch.zeros(len(state), 2), 5.0, pixel_noise_sd=noise)
    signal = torch.stack([
        FourierVolume.from_map(torch.from_numpy(volumes[s])).slice(images.batch(torch.tensor([row])).points[0])
        for row, s in enumerate(state)
    ])  # fmt: skip
    scale = torch.from_numpy(1 + spread * rng.normal(size=(len(state), 1))).float()
    ctf = images.batch(torch.arange(len(state))).ctf
    normal = torch.from_numpy(rng.normal(size=(*signal.shape, 2)) / np.sqrt(2)).float()
    values = scale * ctf * signal + torch.view_as_complex(normal.contiguous())
    return replace(images, source=ResidentCoefficients(torch.view_as_real(values), torch.arange(len(state))))


def test_the_scale_is_integrated_out() -> None:
    """Against numerical integration."""

    def density(c: float, product: float, power: float, variance: float) -> float:
        prior = np.exp(-((c - 1) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
        return float(prior * np.exp(2 * c * product - c**2 * power))

    for values in ((3.0, 4.0, 0.09), (0.5, 0.1, 0.25), (8.0, 6.0, 0.01)):
        found = log_evidence(np.array([values[0]]), np.array([values[1]]), values[2])[0]
        assert found == pytest.approx(np.log(quad(density, -5, 7, args=values)[0]), abs=1e-6)
    known = log_evidence(np.array([1.0]), np.array([2.0]), 0.0)[0]
    assert known == 0.0
    assert log_evidence(np.array([1.0]), np.array([2.0]), 1e-7)[0] == pytest.approx(known, abs=1e-3)


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_posteriors_are_right_as_often_as_they_say_and_the_unit_of_the_maps_is_free(spread: float) -> None:
    rng = np.random.default_rng(0)
    volumes = maps([-1.5, 0.0, 1.5])
    state = rng.choice(3, N, p=[0.6, 0.3, 0.1])
    images = made(volumes, state, 0.06, spread=spread)
    posterior = state_posterior(images, np.arange(N), state, volumes, SilentMonitor())
    assert posterior.sum(axis=1) == pytest.approx(1)
    right = posterior.argmax(axis=1) == state
    assert 0.65 < right.mean() < 0.97, "neither hopeless nor certain"
    assert right.mean() == pytest.approx(posterior.max(axis=1).mean(), abs=0.05)
    assert posterior.mean(axis=0) == pytest.approx(np.bincount(state) / N, abs=0.03)
    again = state_posterior(images, np.arange(N), state, 40 * volumes, SilentMonitor())
    assert again == pytest.approx(posterior, abs=1e-3)


def test_the_sample_is_bounded() -> None:
    state = np.zeros(50_000, np.int64)
    assert len(images_for_inference(state, 100)) == 1000
    assert len(images_for_inference(state, 100_000)) == 200
    assert len(images_for_inference(state[:150], 2)) == 150


def test_true_labels_reach_the_truth_without_noise_and_more_than_the_average_with_it() -> None:
    rng = np.random.default_rng(1)
    volumes = maps([-2.0, 2.0])
    state = rng.integers(2, size=N)
    clear = TrueLabels(made(volumes, state, 0.0003), state, volumes, C1).areas([0, 1], "cpu", SilentMonitor())
    assert clear.min() > 0.96 * perfect_auc(BOX)
    noisy = TrueLabels(made(volumes, state, 0.1), state, volumes, C1)
    areas = noisy.areas([0, 1], "cpu", SilentMonitor())
    average = np.array([fsc_auc(noisy.map_of(np.ones(N), "cpu"), truth) for truth in volumes])
    assert (average < areas).all()
    assert (areas < clear).all()


def test_kernels_begin_with_the_states_own_images_and_reach_ever_farther_in_the_maps() -> None:
    volumes = maps(list(np.linspace(-3, 3, 30)))
    state = np.repeat(np.arange(30), 20)
    labels = TrueLabels(made(volumes[:1], np.zeros(1, int), 1.0), state, volumes, C1)
    kernels = labels.kernels(10)
    assert set(state[kernels[0] > 0]) == {10}
    reach = [np.ptp(state[one > 0]) for one in kernels]
    assert reach == sorted(reach)
    assert reach[-1] > reach[2] > 0
    assert all(one[state == 10].min() == 1.0 for one in kernels)
    apart = TrueLabels(labels.images, state % 2, volumes[[0, -1]], C1)
    assert all((one == (apart.state == 0)).all() for one in apart.kernels(0)), "there is nothing between two states"

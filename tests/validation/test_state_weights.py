"""Populations by maximum likelihood: right where hard assignment is wrong, wide where none can tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps
from cryodrgn_ext.simulate import simulate_particles
from cryodrgn_ext.validation.state_weights import (
    PlacedImages,
    StateWeights,
    filtered_differences,
    fit_weights,
    in_small_box,
    state_weights,
)
from cryodrgn_ext.validation.states import consensus_mask

from .conftest import Case, images_of

RADIUS = 10
RARE_SHARE = 0.25


def weights_of(images: ParticleImages, label: np.ndarray) -> StateWeights:
    consensus = reconstruct_half_maps(images)
    halves = (consensus.half1, consensus.half2)
    states = []
    for state in range(int(label.max()) + 1):
        maps = reconstruct_half_maps(images.subset(torch.from_numpy(np.flatnonzero(label == state))))
        states.append((maps.half1, maps.half2))
    differences = filtered_differences(states, halves, consensus_mask(consensus).numpy(), RADIUS)
    found = state_weights(images, label, differences, [in_small_box(one, RADIUS) for one in halves], RADIUS)
    assert found is not None
    return found


def two_states(seed: int, n: int = 3000) -> tuple[ParticleImages, np.ndarray]:
    """Two states of which the rarer one has preferred views and more noise, and what is true of each image."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(n) < RARE_SHARE).astype(np.int64)
    particles = simulate_particles(
        n, motion="hinge", box_size=32, pixel_size_A=8.0, max_shift_px=1.5, snr=0.1, seed=seed
    )
    ends = particles.motion.state_coordinates[[0, -1]]
    euler = particles.euler_deg.copy()
    some = (truth == 1) & (rng.random(n) < 0.6)
    euler[some, 1] = rng.uniform(20, 60, some.sum())
    particles = replace(particles.with_coordinates(ends[truth]), euler_deg=euler)
    level = np.where(truth == 1, 1.6, 1.2).astype(np.float32)
    noise = rng.normal(0, particles.noise_sigma, (n, 32, 32)).astype(np.float32)
    signal = particles.clean_images(np.arange(n)).numpy() / level[:, None, None]
    images = images_of(particles, torch.from_numpy(signal + noise))
    parameters = images.ctf_parameters
    assert parameters is not None
    # Images normalised by their noise, whose signal is weaker, as refinements know by the scale.
    return replace(images, ctf_parameters=replace(parameters, scale=torch.from_numpy(1 / level))), truth


@pytest.mark.parametrize("seed", [0, 1])
def test_two_states_with_their_own_views_and_noise(seed: int) -> None:
    images, truth = two_states(seed)
    wrong = np.random.default_rng([seed, 1]).random(len(truth)) < np.where(truth == 1, 0.15, 0.25)
    found = weights_of(images, np.where(wrong, 1 - truth, truth))
    true = np.bincount(truth) / len(truth)
    assert abs(found.nearest[1] - true[1]) > 0.1
    assert abs(found.weight[1] - true[1]) < 0.02
    assert found.low[1] < true[1] < found.high[1]
    assert found.weight.sum() == pytest.approx(1.0)
    assert found.images == images.n


def test_of_one_structure_intervals_are_wide(rigid: Case) -> None:
    label = np.random.default_rng(0).integers(0, 2, rigid.images.n)
    found = weights_of(rigid.images, label)
    assert (found.high - found.low > 0.2).all()


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Scores of a mixture in one dimension, drawn 100 times: errors are those that estimates have."""
    rng, n, share = np.random.default_rng(2), 2000, 0.2
    estimates, errors = [], []
    for _ in range(100):
        truth = (rng.random(n) < share).astype(np.int64)
        power = rng.uniform(0.5, 2.0, n)
        place = np.where(truth == 1, 1.2, -0.4)
        b = power * place + rng.normal(size=n) * np.sqrt(power / 2)
        label = (b > 0.5 * power).astype(np.int64)
        weight, error = fit_weights(PlacedImages(b[:, None], power[:, None, None], label), 2)
        estimates.append(weight[1])
        errors.append(error[1])
    assert np.mean(estimates) == pytest.approx(share, abs=0.01)
    assert np.std(estimates) == pytest.approx(np.mean(errors), rel=0.3)


def test_a_map_in_a_small_box_has_the_same_coefficients(rigid: Case) -> None:
    volume, radius = rigid.consensus.half1, 6
    batch = rigid.images.batch(torch.arange(20), rigid.images.plane.prefix(radius))
    whole, small = (
        FourierVolume.from_map(torch.from_numpy(one), radius=radius).slice(batch.points)
        for one in (volume, in_small_box(volume, radius))
    )
    assert float((whole - small).abs().square().mean() / whole.abs().square().mean()) < 0.01

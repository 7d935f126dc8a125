"""Images of one structure with everything else as in the data: what they keep, and what is not in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps
from cryodrgn_ext.validation.image_errors import ImageErrors, measure_errors
from cryodrgn_ext.validation.null_images import make_null_images
from cryodrgn_ext.validation.states import consensus_mask, iterate_states

from .conftest import Case, N, images_of

PIXEL_SIZE_A = 8.0
EXACT = ImageErrors(0.0, 0.0, 0.0)


def measured(images: ParticleImages) -> ImageErrors:
    """Errors of images against their own consensus."""
    consensus = reconstruct_half_maps(images)
    radius = round(images.box_size * PIXEL_SIZE_A / consensus.resolution_A)
    return measure_errors(images, consensus.map, consensus_mask(consensus).numpy(), min(radius, 14))


def power_left(case: Case, images: ParticleImages) -> np.ndarray:
    """(N, M) power that the consensus leaves of the coefficients."""
    batch = images.batch(torch.arange(N))
    expected = batch.ctf * FourierVolume.from_map(torch.from_numpy(case.consensus.map)).slice(batch.points)
    return (batch.coefficients - expected).abs().square().numpy()


def test_the_structure_and_the_noise_stay_and_the_motion_is_gone(hinge: Case, tmp_path: Path) -> None:
    null = make_null_images(hinge.images, hinge.consensus.map, EXACT, (0,), tmp_path / "null.npy", SilentMonitor())
    mask = consensus_mask(hinge.consensus).numpy()
    found = reconstruct_half_maps(null)
    assert np.corrcoef((found.map * mask).ravel(), (hinge.consensus.map * mask).ravel())[0, 1] > 0.99
    before, after = power_left(hinge, hinge.images), power_left(hinge, null)
    shell = hinge.images.plane.shell.numpy()
    for one in range(2, shell.max() + 1):
        inside = shell == one
        assert after[:, inside].mean() == pytest.approx(before[:, inside].mean(), rel=0.1)
    labels = hinge.particles.state // 7
    assert {state.verdict for state in iterate_states(hinge.images, labels, hinge.consensus)} == {"distinct"}
    assert {state.verdict for state in iterate_states(null, labels, found)} == {"not distinguishable"}


def test_the_same_seed_gives_the_same_images(rigid: Case, tmp_path: Path) -> None:
    errors = ImageErrors(0.01, 0.1, 0.1)
    made = [
        make_null_images(rigid.images, rigid.consensus.map, errors, (seed,), tmp_path / f"{n}.npy", SilentMonitor())
        for n, seed in enumerate((3, 3, 4))
    ]
    first, again, other = (one.batch(torch.arange(N)).coefficients for one in made)
    assert torch.equal(first, again)
    assert abs(complex((first.conj() * other).mean())) < abs(complex((first.conj() * first).mean()))
    assert not torch.equal(first, other)


def test_errors_of_poses_and_scales_are_measured(rigid: Case) -> None:
    """Planted: 2 degrees, 0.4 pixels, scales of 0.3; nothing is found where nothing was planted."""
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.normal(0, rigid.particles.noise_sigma, (N, 32, 32))).float()
    scale = torch.from_numpy(rng.normal(1, 0.3, N)).float()
    images = images_of(
        rigid.particles, scale[:, None, None] * rigid.particles.clean_images(np.arange(N)) + noise,
        rigid.particles.shift_px + rng.normal(0, 0.4, (N, 2)),
    )  # fmt: skip
    turn = Rotation.from_rotvec(np.deg2rad(2.0) * rng.normal(size=(N, 3))).as_matrix()
    images = replace(images, rotation=images.rotation @ torch.from_numpy(turn).float())
    found = measured(images)
    assert np.rad2deg(found.rotation_rad) == pytest.approx(2.0, rel=0.25)
    assert found.shift_px == pytest.approx(0.4, rel=0.25)
    assert found.scale == pytest.approx(0.3, rel=0.25)
    nothing = measured(rigid.images)
    assert np.rad2deg(nothing.rotation_rad) < 1.0
    assert nothing.shift_px < 0.1
    assert nothing.scale < 0.1


def test_null_images_carry_the_planted_errors(rigid: Case, tmp_path: Path) -> None:
    planted = ImageErrors(np.deg2rad(2.0), 0.4, 0.0)
    null = make_null_images(rigid.images, rigid.consensus.map, planted, (1,), tmp_path / "null.npy", SilentMonitor())
    assert torch.equal(null.rotation, rigid.images.rotation)
    found = measured(null)
    assert found.rotation_rad == pytest.approx(planted.rotation_rad, rel=0.3)
    assert found.shift_px == pytest.approx(planted.shift_px, rel=0.3)

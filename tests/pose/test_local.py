"""Gauss-Newton refinement of poses: derivatives against finite differences, kernel against plain form, convergence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.fourier.ctf import CtfParameters
from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.fourier.shifts import shift_phases
from cryodrgn_ext.fourier.slices import FourierVolume, slice_points
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.pose.local import (
    DifferentiableVolume,
    NormalEquations,
    normal_equations,
    normal_equations_torch,
    refine_poses,
    rotated,
)
from cryodrgn_ext.pose.metrics import pose_errors
from cryodrgn_ext.pose.scoring import Scorer

BOX = 32


def blob_map(seed: int, beads: int = 30) -> torch.Tensor:
    """A smooth random map well within its box."""
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(beads, 3, generator=rng) * 3.5
    axis = torch.arange(BOX, dtype=torch.float32) - BOX // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    grid = torch.stack([x, y, z], -1).reshape(-1, 1, 3)
    return torch.exp(-(grid - centres).square().sum(-1) / (2 * 1.3**2)).sum(1).reshape(BOX, BOX, BOX)


def make_images(maps: torch.Tensor, weights: torch.Tensor, noise: float, seed: int = 0) -> ParticleImages:
    """Images of weighted sums of maps, with random poses, CTF and noise relative to the signal."""
    n = len(weights)
    rng = torch.Generator().manual_seed(seed)
    rotation = torch.from_numpy(Rotation.random(n, rng=seed).as_matrix()).float()
    shift = (torch.rand(n, 2, generator=rng) - 0.5) * 4
    ones = torch.ones(n)
    ctf = CtfParameters(
        defocus_u_A=10_000 + 15_000 * torch.rand(n, generator=rng), defocus_v_A=12_000 * ones,
        defocus_angle_rad=0.3 * ones, voltage_kV=300 * ones, cs_mm=2.7 * ones, amplitude_contrast=0.1 * ones,
        phase_shift_rad=0 * ones, b_factor_A2=0 * ones, scale=ones,
    )  # fmt: skip
    flat = ParticleImages.from_tensors(torch.zeros(n, BOX, BOX), rotation, shift, 5.0, ctf, pixel_noise_sd=1.0)
    plane = HalfPlane(BOX, BOX // 2)
    points = slice_points(plane.kxy, rotation)
    signal = sum(weights[:, c, None] * FourierVolume.from_map(one).slice(points) for c, one in enumerate(maps))
    signal = signal * flat.batch(torch.arange(n)).ctf * BOX
    pictures = plane.to_images(signal * shift_phases(plane.kxy, shift, BOX))
    sd = noise * float(pictures.std())
    pictures = pictures + sd * torch.randn(pictures.shape, generator=rng)
    return ParticleImages.from_tensors(pictures, rotation, shift, 5.0, ctf, pixel_noise_sd=sd)


@pytest.fixture(scope="module")
def maps() -> torch.Tensor:
    return torch.stack([blob_map(1), 0.5 * blob_map(2)])


@pytest.fixture(scope="module")
def images(maps: torch.Tensor) -> ParticleImages:
    weights = torch.stack([torch.ones(40), torch.linspace(-1, 1, 40)], dim=1)
    return make_images(maps, weights, noise=1.0)


def both_forms(images: ParticleImages, maps: torch.Tensor) -> tuple[NormalEquations, NormalEquations]:
    scorer = Scorer(images, radius=14)
    volume = DifferentiableVolume.from_maps(maps, 15)
    weights = torch.stack([torch.ones(40), torch.linspace(-1, 1, 40)], dim=1)
    rows = torch.arange(3, 40, 2)
    rotation, shift = images.rotation[rows].double(), images.shift_px[rows].double() + 0.2
    count = scorer.count(12.5)
    planes = scorer.frequency_matrix[rows].double() @ rotation[:, :2]
    fast = normal_equations(scorer, volume, weights, rows, rotation, shift, count)
    return fast, normal_equations_torch(scorer, volume, weights, rows, planes, shift, count)


def test_kernel_is_the_plain_form(images: ParticleImages, maps: torch.Tensor) -> None:
    fast, plain = both_forms(images, maps)
    for name in ("log_likelihood", "gradient", "matrix"):
        a, b = getattr(fast, name), getattr(plain, name)
        assert float((a - b).abs().max()) < 1e-4 * float(b.abs().max()), name


def test_fit_is_the_scorers_and_gradient_its_derivative(images: ParticleImages, maps: torch.Tensor) -> None:
    scorer = Scorer(images, radius=13)
    model = FourierVolume.from_map(maps[0], radius=15)
    volume = DifferentiableVolume.from_maps(maps[:1], 15)
    rotation, shift = images.rotation.double(), images.shift_px.double() + 0.3
    ones = torch.ones(40, 1)
    rows, count = torch.arange(40), scorer.count(None)
    found = normal_equations(scorer, volume, ones, rows, rotation, shift, count)

    def fit(angles: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
        return scorer.own(model, rotated(rotation, angles).float()[:, None], (shift + moved).float()[:, None])[:, 0, 0]

    zero3, zero2 = torch.zeros(40, 3), torch.zeros(40, 2)
    assert torch.allclose(found.log_likelihood.float(), fit(zero3, zero2), rtol=1e-3, atol=0.05)
    step = 0.02
    for j in range(5):
        angles, moved = zero3.clone(), zero2.clone()
        (angles[:, j : j + 1] if j < 3 else moved[:, j - 3 : j - 2]).fill_(step)
        numeric = (fit(angles, moved) - fit(-angles, -moved)) / (2 * step)
        error = (numeric - found.gradient[:, j].float()).abs().median()
        assert float(error) < 0.04 * float(found.gradient[:, j].abs().median()) + 0.02 * float(numeric.abs().max())


def test_rotated_stays_a_rotation_and_is_about_the_models_axes() -> None:
    before = torch.from_numpy(Rotation.random(5, rng=1).as_matrix())
    out = rotated(before, torch.tensor([[0.0, 0.0, math.radians(30)]]).expand(5, 3))
    assert torch.allclose(out @ out.mT, torch.eye(3, dtype=torch.float64).expand(5, 3, 3), atol=1e-12)
    expected = before.numpy() @ Rotation.from_euler("z", 30, degrees=True).as_matrix()
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-7)


def test_poses_come_back_from_a_few_degrees_off(maps: torch.Tensor) -> None:
    weights = torch.stack([torch.ones(60), torch.linspace(-1, 1, 60)], dim=1)
    images = make_images(maps, weights, noise=0.5, seed=3)
    rng = torch.Generator().manual_seed(0)
    off = rotated(images.rotation.double(), torch.randn(60, 3, generator=rng) * math.radians(4))
    moved = images.shift_px.double() + torch.randn(60, 2, generator=rng)
    scorer = Scorer(images)
    volume = DifferentiableVolume.from_maps(maps, 15)
    found = refine_poses(scorer, volume, Poses(off, moved), 8.0, weights, iterations=8)
    found = refine_poses(scorer, volume, found.poses, None, weights, iterations=8)
    errors = pose_errors(found.poses, images.poses)
    assert np.median(errors.degrees) < 1.0
    assert np.median(errors.shift_px) < 0.05
    # What the images' noise allows, as the inverse of the Gauss-Newton matrix tells, is what is left (three axes).
    expected = float(found.error_deg.median()) * math.sqrt(3)
    assert 0.4 * expected < np.median(errors.degrees) < 2.5 * expected


def test_steps_never_make_the_fit_worse(images: ParticleImages, maps: torch.Tensor) -> None:
    scorer = Scorer(images)
    volume = DifferentiableVolume.from_maps(maps[:1], 15)
    anywhere = Poses(torch.from_numpy(Rotation.random(40, rng=9).as_matrix()), images.shift_px)
    before = refine_poses(scorer, volume, anywhere, iterations=0).log_likelihood
    after = refine_poses(scorer, volume, anywhere, iterations=6).log_likelihood
    assert bool((after >= before).all())
    assert float((after - before).median()) > 0

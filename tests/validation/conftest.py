from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from cryodrgn_ext.fourier.ctf import CtfParameters
from cryodrgn_ext.fourier.masks import soft_circle
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.reconstruction.half_maps import HalfMaps, reconstruct_half_maps
from cryodrgn_ext.simulate import SimulatedParticles, simulate_particles

N = 1600


@dataclass(frozen=True)
class Case:
    """Simulated particles, the images as reconstruction sees them, and their consensus."""

    particles: SimulatedParticles
    images: ParticleImages
    consensus: HalfMaps


def images_of(
    particles: SimulatedParticles, pixels: torch.Tensor, shift_px: np.ndarray | None = None
) -> ParticleImages:
    """Images as reconstruction sees them, of pixels (N, D, D) at the particles' own poses, or at other shifts."""

    def per_image(value: object) -> torch.Tensor:
        return torch.as_tensor(value).float() * torch.ones(particles.n)

    optics, defocus = particles.optics[0], particles.defocus
    parameters = CtfParameters(
        defocus_u_A=per_image(defocus.u_A),
        defocus_v_A=per_image(defocus.v_A),
        defocus_angle_rad=per_image(np.deg2rad(defocus.angle_deg)),
        voltage_kV=per_image(optics.voltage_kV),
        cs_mm=per_image(optics.cs_mm),
        amplitude_contrast=per_image(optics.amplitude_contrast),
        phase_shift_rad=per_image(0.0),
        b_factor_A2=per_image(0.0),
        scale=per_image(1.0),
    )
    return ParticleImages.from_tensors(
        pixels,
        torch.from_numpy(particles.rotation),
        torch.from_numpy(particles.shift_px if shift_px is None else shift_px),
        particles.pixel_size_A,
        parameters,
        torch.from_numpy(particles.half_set),
        particles.noise_sigma,
    )


def make_case(motion: str, seed: int = 0, window: bool = False) -> Case:
    particles = simulate_particles(N, motion=motion, box_size=32, pixel_size_A=8.0, max_shift_px=1.5, seed=seed)
    pixels = torch.from_numpy(particles.images())
    if window:
        pixels = pixels * soft_circle(32, 13.0, 2.0)
    images = images_of(particles, pixels)
    return Case(particles, images, reconstruct_half_maps(images))


@pytest.fixture(scope="session")
def hinge() -> Case:
    return make_case("hinge")


@pytest.fixture(scope="session")
def rigid() -> Case:
    return make_case("rigid")


@pytest.fixture(scope="session")
def rigid_windowed() -> Case:
    return make_case("rigid", seed=1, window=True)

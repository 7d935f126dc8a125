"""Small sets of images whose heterogeneity is known exactly: a volume plus one linear mode, CTF, poses and noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.fourier.ctf import CtfParameters
from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.fourier.slices import slice_points
from cryodrgn_ext.images.dataset import ParticleImages

BOX, PIXEL_A = 32, 6.0


@dataclass(frozen=True)
class LinearSet:
    """Images of base + y * (moved - still), y standard normal, made of beads and projected exactly."""

    images: ParticleImages
    y: np.ndarray
    base_map: np.ndarray
    mode_map: np.ndarray


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def _bead_transform(points: torch.Tensor, beads: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    width = 1.2  # voxels
    phase = -2 * math.pi * points @ beads.T / BOX
    envelope = torch.exp(-2 * (math.pi * width / BOX) ** 2 * points.square().sum(-1))
    return (torch.polar(torch.ones_like(phase), phase) @ weights.to(torch.complex64)) * envelope


def bead_map(beads: torch.Tensor, weights: torch.Tensor) -> np.ndarray:
    axis = torch.arange(BOX, dtype=torch.float32) - BOX // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    grid = torch.stack([x, y, z], -1).reshape(-1, 1, 3)
    width = 1.2
    density = torch.exp(-(grid - beads).square().sum(-1) / (2 * width**2)) @ weights
    return (density / (2 * math.pi * width**2) ** 1.5).reshape(BOX, BOX, BOX).numpy()


@dataclass(frozen=True)
class StateSet:
    """Images of unrelated structures: a body, and beads of its own for each state, made and projected exactly."""

    images: ParticleImages
    state: np.ndarray
    average_map: np.ndarray
    state_maps: np.ndarray


def make_linear_set(n: int, noise_sd: float, seed: int = 0) -> LinearSet:
    rng = torch.Generator().manual_seed(seed)
    base = torch.randn(40, 3, generator=rng) * 3.0
    mode = torch.randn(16, 3, generator=rng) * 2.0 + torch.tensor([4.0, 0.0, 2.0])
    base_weight = torch.full((40,), 1.0)
    mode_weight = torch.where(torch.arange(16) < 8, 1.0, -1.0)
    y = torch.randn(n, generator=rng)

    def signal(points: torch.Tensor) -> torch.Tensor:
        return _bead_transform(points, base, base_weight) + y[:, None] * _bead_transform(points, mode, mode_weight)

    images = _images(signal, n, noise_sd, seed, rng)
    return LinearSet(images, y.numpy(), bead_map(base, base_weight), bead_map(mode, mode_weight))


def make_bent_set(n: int, noise_sd: float, seed: int = 0) -> LinearSet:
    """Images of base + y * (bent - base): beads move across the z axis as the square of how far along it they are."""
    rng = torch.Generator().manual_seed(seed)
    base = (torch.rand(60, 3, generator=rng) - 0.5) * torch.tensor([7.0, 7.0, 16.0])
    offset = 0.04 * (base[:, 2].square() - base[:, 2].square().mean())
    bent = base + torch.stack([offset, 0 * offset, 0 * offset], 1)
    weight = torch.ones(60)
    y = torch.randn(n, generator=rng)

    def signal(points: torch.Tensor) -> torch.Tensor:
        still = _bead_transform(points, base, weight)
        return still + y[:, None] * (_bead_transform(points, bent, weight) - still)

    images = _images(signal, n, noise_sd, seed, rng)
    still_map = bead_map(base, weight)
    return LinearSet(images, y.numpy(), still_map, bead_map(bent, weight) - still_map)


def make_turning_set(n: int, noise_sd: float, places: int, seed: int = 0) -> StateSet:
    """Images of an arm that turns fully about a body, at some of ``places`` angles: many unlike volumes, in one row."""
    rng = torch.Generator().manual_seed(seed)
    body = torch.randn(40, 3, generator=rng) * torch.tensor([1.5, 1.5, 3.0])
    arm = torch.rand(12, 3, generator=rng) * torch.tensor([7.0, 2.0, 2.0]) + torch.tensor([4.0, -1.0, -1.0])
    state = torch.randint(places, (n,), generator=rng)
    weight = torch.ones(52)
    turns = Rotation.from_euler("z", 360 * np.arange(places)[:, None] / places, degrees=True).as_matrix()
    beads = [torch.cat([body, arm @ torch.as_tensor(turn.T, dtype=torch.float32)]) for turn in turns]
    return _state_set(n, noise_sd, seed, rng, (state, weight, beads))


def make_state_set(n: int, noise_sd: float, states: int, seed: int = 0) -> StateSet:
    rng = torch.Generator().manual_seed(seed)
    base = torch.randn(40, 3, generator=rng) * 3.0
    own = torch.randn(states, 12, 3, generator=rng) * 1.5 + torch.randn(states, 1, 3, generator=rng) * 3.0
    state = torch.randint(states, (n,), generator=rng)
    weight = torch.cat([torch.ones(40), torch.full((12,), 1.5)])
    beads = [torch.cat([base, part]) for part in own]

    return _state_set(n, noise_sd, seed, rng, (state, weight, beads))


@dataclass(frozen=True)
class ComposedSet:
    """Images of a body with domains, each of which is there or not, made and projected exactly."""

    images: ParticleImages
    present: np.ndarray
    average_map: np.ndarray


def make_composed_set(n: int, noise_sd: float, sizes: tuple[int, ...], seed: int = 0) -> ComposedSet:
    """Domains of ``sizes`` beads in a ring about the body, each in half of the images."""
    rng = torch.Generator().manual_seed(seed)
    body = torch.randn(40, 3, generator=rng) * 2.5
    angle = torch.arange(len(sizes)) * 2 * math.pi / len(sizes)
    place = torch.stack([6 * angle.cos(), 6 * angle.sin(), 3 * (-1.0) ** torch.arange(len(sizes))], 1)
    domains = [torch.randn(size, 3, generator=rng) * 1.2 + at for size, at in zip(sizes, place, strict=True)]
    present = torch.randint(2, (n, len(sizes)), generator=rng).float()

    def signal(points: torch.Tensor) -> torch.Tensor:
        parts = [_bead_transform(points, beads, torch.ones(len(beads))) for beads in domains]
        return _bead_transform(points, body, torch.ones(40)) + (torch.stack(parts, -1) * present[:, None]).sum(-1)

    average = bead_map(body, torch.ones(40)) + sum(0.5 * bead_map(beads, torch.ones(len(beads))) for beads in domains)
    return ComposedSet(_images(signal, n, noise_sd, seed, rng), present.numpy(), average)


def _state_set(
    n: int,
    noise_sd: float,
    seed: int,
    rng: torch.Generator,
    what: tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]],
) -> StateSet:
    """Images of ``what``: the state of each, weights of the beads, and the beads of each state."""
    state, weight, beads = what

    def signal(points: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(points.shape[:2], dtype=torch.complex64)
        for k, here in enumerate(beads):
            out[state == k] = _bead_transform(points[state == k], here, weight)
        return out

    maps = np.stack([bead_map(here, weight) for here in beads])
    images = _images(signal, n, noise_sd, seed, rng)
    return StateSet(images, state.numpy(), maps[state.numpy()].mean(0), maps)


def _images(
    signal: Callable[[torch.Tensor], torch.Tensor], n: int, noise_sd: float, seed: int, rng: torch.Generator
) -> ParticleImages:
    """Images (n) of what has coefficients ``signal`` at points (n, M, 3), shifted, with CTF and noise."""
    rotation = torch.as_tensor(Rotation.random(n, rng=seed).as_matrix(), dtype=torch.float32)
    shift = (torch.rand(n, 2, generator=rng) - 0.5) * 4
    defocus = 10_000 + 15_000 * torch.rand(n, generator=rng)
    full = torch.full((n,), 1.0)
    parameters = CtfParameters(
        defocus_u_A=defocus, defocus_v_A=defocus + 200, defocus_angle_rad=full * 0.3, voltage_kV=full * 300,
        cs_mm=full * 2.7, amplitude_contrast=full * 0.1, phase_shift_rad=full * 0, b_factor_A2=full * 0, scale=full,
    )  # fmt: skip
    plane = HalfPlane(BOX, BOX // 2)
    flat = ParticleImages.from_tensors(
        torch.zeros(n, BOX, BOX), rotation, shift, PIXEL_A, parameters, pixel_noise_sd=1.0
    )
    ctf_values = flat.batch(torch.arange(n)).ctf * BOX  # sigma of a coefficient is BOX for unit pixel noise
    points = slice_points(plane.kxy, rotation)
    angle = -2 * math.pi * shift @ plane.kxy.float().T / BOX
    pictures = plane.to_images(ctf_values * signal(points) * torch.polar(torch.ones_like(angle), angle))
    pictures = pictures + noise_sd * torch.randn(pictures.shape, generator=rng)
    return ParticleImages.from_tensors(pictures, rotation, shift, PIXEL_A, parameters, pixel_noise_sd=noise_sd)

"""Small particles with a known map, poses, CTF and noise, for the tests of poses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryodrgn_ext.fourier.ctf import CtfParameters, ctf
from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.fourier.shifts import shift_phases
from cryodrgn_ext.fourier.slices import FourierVolume, slice_points
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.images.poses import Poses


@dataclass(frozen=True)
class Phantom:
    """Images of a lopsided cloud of beads, (N,) of them, and all that made them."""

    images: ParticleImages
    density: Tensor
    volume: FourierVolume
    rotation: Tensor
    shift_px: Tensor

    @property
    def poses(self) -> Poses:
        """The true ones."""
        return Poses(self.rotation, self.shift_px)


def density(box_size: int, seed: int = 0, beads: int = 120) -> Tensor:
    """(D, D, D) float32: a chain of Gaussian beads without symmetry inside the middle of the box."""
    return density_of(np.random.default_rng(seed), box_size, beads)


def density_of(
    rng: np.random.Generator, box_size: int, beads: int, extent: float = 0.28, offset: tuple[float, ...] = (0, 0, 0)
) -> Tensor:
    """(D, D, D) float32: a chain of beads of some extent about a place x, y, z, both as fractions of the box."""
    walk = np.cumsum(rng.normal(size=(beads, 3)), axis=0)
    walk -= walk.mean(0)
    walk *= extent * box_size / np.abs(walk).max()
    walk += box_size * np.asarray(offset)
    axis = np.arange(box_size) - box_size // 2
    along = [np.exp(-((axis[None] - walk[:, i : i + 1]) ** 2) / (2 * 1.3**2)) for i in range(3)]
    return torch.from_numpy(np.einsum("nz,ny,nx->zyx", along[2], along[1], along[0])).float()


def random_ctf(n: int, rng: np.random.Generator) -> CtfParameters:
    """Defocus of 1 to 2.5 µm, slightly astigmatic."""
    mean = rng.uniform(10000, 25000, n)
    columns = (
        mean + 200, mean - 200, rng.uniform(0, np.pi, n), np.full(n, 300.0), np.full(n, 2.7), np.full(n, 0.1),
        np.zeros(n), np.zeros(n), np.ones(n),
    )  # fmt: skip
    return CtfParameters(*(torch.from_numpy(column).float() for column in columns))


def phantom(
    n: int,
    box_size: int = 32,
    snr: float | None = 0.1,
    shift_px: float = 3.0,
    with_ctf: bool = True,
    seed: int = 0,
    rotation: Tensor | None = None,
    scale: Tensor | None = None,
) -> Phantom:
    """Simulate images in random poses; ``snr`` None leaves out the noise (but assumes that of SNR 1).

    ``scale`` (N,) is that of the particle in each image, 1 when omitted.
    """
    rng = np.random.default_rng(seed)
    truth = density(box_size)
    volume = FourierVolume.from_map(truth)
    if rotation is None:
        rotation = torch.from_numpy(Rotation.random(n, random_state=rng).as_matrix()).float()
    shift = torch.from_numpy(rng.uniform(-shift_px, shift_px, (n, 2))).float()
    plane = HalfPlane(box_size, box_size // 2)
    pixel_size_A = 6.0
    parameters = random_ctf(n, rng) if with_ctf else None
    values = volume.slice(slice_points(plane.kxy, rotation)) * shift_phases(plane.kxy, shift, box_size)
    if parameters is not None:
        values = values * ctf(parameters, plane.kxy, pixel_size_A, box_size)
    clean = plane.to_images(values)
    sd = float(clean.std()) / np.sqrt(1.0 if snr is None else snr)
    if scale is not None:
        clean = clean * scale[:, None, None]
    noise = torch.from_numpy(rng.normal(0, sd, clean.shape)).float() if snr is not None else 0.0
    images = ParticleImages.from_tensors(
        clean + noise, torch.eye(3).expand(n, 3, 3), torch.zeros(n, 2), pixel_size_A, parameters, pixel_noise_sd=sd
    )
    return Phantom(images, truth, volume, rotation, shift)


def angles_deg(a: Tensor, b: Tensor) -> Tensor:
    """Angles between rotations (N, 3, 3), in degrees."""
    trace = (a.double() * b.double()).sum((-1, -2))
    return torch.rad2deg(torch.arccos(((trace - 1) / 2).clamp(-1, 1)))

"""A small density and noisy images of it, for the tests of this room."""

from __future__ import annotations

from dataclasses import replace

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryodrgn_ext.fourier.ctf import CtfParameters, ctf
from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.fourier.shifts import shift_phases
from cryodrgn_ext.fourier.slices import FourierVolume, slice_points
from cryodrgn_ext.images.coefficient_source import ResidentCoefficients
from cryodrgn_ext.images.particle_images import ParticleImages

BOX, PIXEL_A = 32, 4.0


def density(seed: int = 0) -> Tensor:
    """Positive Gaussian beads within two thirds of the box."""
    g = torch.Generator().manual_seed(seed)
    beads = (torch.rand(25, 3, generator=g) - 0.5) * 14 + BOX // 2
    axis = torch.arange(BOX)
    parts = [torch.exp(-0.5 * ((axis[None] - beads[:, i : i + 1]) / 1.3) ** 2) for i in range(3)]
    return torch.einsum("nz,ny,nx->zyx", *parts)


def images_of(volume: Tensor, n: int, noise: float = 0.0, with_ctf: bool = True, seed: int = 0) -> ParticleImages:
    g = torch.Generator().manual_seed(seed)
    rotation = torch.from_numpy(Rotation.random(n, random_state=seed).as_matrix()).float()
    shift = 4 * torch.rand(n, 2, generator=g) - 2
    u = 8000 + 12000 * torch.rand(n, generator=g, dtype=torch.float64)

    def full(value: float) -> Tensor:
        return torch.full((n,), value, dtype=torch.float64)

    parameters = CtfParameters(u, u - 400, full(0.4), full(300), full(2.7), full(0.1), full(0), full(0), full(1))
    plane = HalfPlane(BOX, BOX // 2)
    clean = FourierVolume.from_map(volume).slice(slice_points(plane.kxy, rotation))
    clean = clean * shift_phases(plane.kxy, shift, BOX)
    if with_ctf:
        clean = clean * ctf(parameters, plane.kxy, PIXEL_A, BOX)
    images = plane.to_images(clean) + noise * torch.randn(n, BOX, BOX, generator=g)
    return ParticleImages.from_tensors(
        images, rotation, shift, PIXEL_A, parameters if with_ctf else None, pixel_noise_sd=max(noise, 1.0)
    )


def expanded(images: ParticleImages, rotations: Tensor) -> ParticleImages:
    """Each image once under each of rotations (S, 3, 3) of the model."""
    rows = torch.arange(images.n).repeat_interleave(len(rotations))
    poses = images.rotation.double()[:, None] @ rotations.double()
    source = ResidentCoefficients(torch.view_as_real(images.source.gather(rows, images.source.n_coefficients)),
                                  torch.arange(len(rows)))  # fmt: skip
    parameters = None if images.ctf_parameters is None else images.ctf_parameters.index(rows)
    return replace(
        images, source=source, rotation=poses.flatten(0, 1).float(), shift_px=images.shift_px[rows],
        ctf_parameters=parameters, half_set=images.half_set[rows], optics_index=images.optics_index[rows],
    )  # fmt: skip

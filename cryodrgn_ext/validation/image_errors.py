"""How large the errors of the poses are, and how much images differ in scale, as the images themselves say.

Each image's shift, rotation and scale against the consensus are estimated twice, from disjoint sets of coefficients,
by least squares on the derivatives of its expected image. The noise of the two estimates is independent, so that the
covariance over the images is the variance of the errors, free of noise. Structural differences that look like shifts or
rotations count as errors: for heterogeneous particles the sizes are upper bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.pose.local import rotation_derivatives
from cryodrgn_ext.validation.held_out import disjoint_sets, one_row_per_image

MOST_IMAGES = 2_000
IMAGES_PER_BATCH = 256
RIDGE = 1e-6


@dataclass(frozen=True)
class ImageErrors:
    """Standard deviations over the images.

    Attributes
    ----------
    rotation_rad : float
        Of the orientation, about each axis of the molecule.
    shift_px : float
        Of the shift, along each axis of the image, in pixels of the working box.
    scale : float
        Of the scale of the signal, whose mean is 1.
    """

    rotation_rad: float
    shift_px: float
    scale: float


def measure_errors(
    images: ParticleImages,
    consensus: NDArray[np.float32],
    mask: NDArray[np.float32],
    radius: int,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> ImageErrors:
    """Measure the errors of a sample of images.

    Parameters
    ----------
    images : ParticleImages
    consensus : ndarray
        (D, D, D) map of all.
    mask : ndarray
        (D, D, D) of the particle: noise around it would pass for what rotations do far from the centre, and make them
        look smaller than they are.
    radius : int
        Largest |k| to look at (cycles per box): that of the consensus' resolution.
    seed : int
        Of the sample.
    device : torch.device or str
    """
    rng = np.random.default_rng([seed, 9])
    rows = np.flatnonzero(one_row_per_image(images, rng))
    chosen = torch.from_numpy(np.sort(rng.choice(rows, min(len(rows), MOST_IMAGES), replace=False)))
    volume = torch.from_numpy(consensus * mask).to(device)
    volumes = [FourierVolume.from_map(one, radius=radius) for one in (volume, *rotation_derivatives(volume))]
    count = min(images.plane.prefix(radius), images.source.n_coefficients)
    kxy = images.plane.kxy[:count].to(device)
    sets = disjoint_sets(images.plane.kxy[:count])
    found: list[list[Tensor]] = [[], []]
    for some in chosen.split(IMAGES_PER_BATCH):
        batch = images.batch(some, count, device)
        slices = [batch.ctf * volume.slice(batch.points) for volume in volumes]
        step = -2j * math.pi * kxy.to(batch.ctf).T / images.box_size
        changes = torch.stack([slices[0], step[0] * slices[0], step[1] * slices[0], *slices[1:]], dim=1)
        residual = batch.coefficients - slices[0]
        for part, out in zip(sets, found, strict=True):
            out.append(_fit(changes[:, :, part], residual[:, part]))
    first, second = (torch.cat(parts) for parts in found)
    variance = _shared_variance(first, second)
    shift, rotation = float(variance[1:3].mean()), float(variance[3:].mean())
    return ImageErrors(math.sqrt(max(rotation, 0)), math.sqrt(max(shift, 0)), math.sqrt(max(float(variance[0]), 0)))


def _fit(changes: Tensor, residual: Tensor) -> Tensor:
    """(B, K, 2) float64: least-squares amounts of changes (B, K, M) in residuals (B, M), and their noise variance."""
    normal = torch.einsum("bkm,blm->bkl", changes.conj(), changes).real.double()
    right = torch.einsum("bkm,bm->bk", changes.conj(), residual).real.double()
    diagonal = torch.diagonal(normal, dim1=1, dim2=2)
    inverse = torch.linalg.inv(normal + torch.diag_embed(RIDGE * diagonal + 1e-12))
    amounts = torch.einsum("bkl,bl->bk", inverse, right)
    return torch.stack([amounts, torch.diagonal(inverse, dim1=1, dim2=2)], dim=2)


def _shared_variance(first: Tensor, second: Tensor) -> Tensor:
    """(K,) covariance over images of two estimates (B, K, 2), those with least noise counting most."""
    weight = 1 / (first[..., 1] * second[..., 1]).clamp_min(1e-300)
    weight = weight / weight.sum(dim=0)
    a, b = (one[..., 0] - (weight * one[..., 0]).sum(dim=0) for one in (first, second))
    return (weight * a * b).sum(dim=0)

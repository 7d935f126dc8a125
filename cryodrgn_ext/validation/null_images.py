"""Images of one structure with everything else as in the data: the null hypothesis that a job can be run on.

Each image becomes the projection of the consensus at the particle's own pose, with its CTF and its scale, and noise of
its own spectrum: the power that the consensus leaves of the image, shell by shell, at random phases. Poses are wrong by
as much as those of the data seem to be, and scales differ as much (:mod:`.image_errors`): the images are made at other
poses than they are said to have. What a job finds in them is not in the molecule. Not kept are correlations of noise
between neighbouring coefficients, which a window makes, and noise that is shared by several images.

Differences of states can be planted (:mod:`.planted`): what the job finds of them says what it could have seen.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryodrgn_ext.durable_files import claim_room
from cryodrgn_ext.fourier.shells import shell_sum
from cryodrgn_ext.fourier.shifts import shift_phases
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.coefficient_source import ResidentCoefficients
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.validation.image_errors import ImageErrors
from cryodrgn_ext.validation.planted import Planted

IMAGES_PER_CHUNK = 512


def make_null_images(
    images: ParticleImages,
    consensus: NDArray[np.float32],
    errors: ImageErrors,
    seed: tuple[int, ...],
    path: Path,
    monitor: Monitor,
    planted: Planted | None = None,
) -> ParticleImages:
    """Write the coefficients of such images, and return them in the place of the data.

    Parameters
    ----------
    images : ParticleImages
        The data.
    consensus : ndarray
        (D, D, D) the one structure.
    errors : ImageErrors
        Of poses and scales.
    seed : tuple of int
        The same seed gives the same images.
    path : Path
        File for the coefficients, as many and in float16 as those of a store; read from there as they are needed.
    monitor : Monitor
    planted : Planted, optional
        Differences that are added to the structure.

    Returns
    -------
    ParticleImages
        With poses, CTF and metadata of the data; rows of one image share it.
    """
    first, stored = _images_and_rows(images)
    made = _NullImages(images, consensus, errors, seed, planted)
    count = images.source.n_coefficients
    values = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(len(first), count, 2))
    claim_room(path)
    chunks = range(0, len(first), IMAGES_PER_CHUNK)
    for start in monitor.track(chunks, "Images of one structure", len(first), IMAGES_PER_CHUNK):
        part = slice(start, start + IMAGES_PER_CHUNK)
        values[part] = torch.view_as_real(made.chunk(first[part], start)).numpy()
    values.flush()
    source = ResidentCoefficients(torch.from_numpy(np.load(path, mmap_mode="c")), torch.from_numpy(stored))
    optics = tuple(replace(group, premultiplied=False) for group in images.optics)
    return replace(images, source=source, optics=optics)


def _images_and_rows(images: ParticleImages) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(U,) one row of each image, and (N,) the image of each row."""
    if images.particles is None:
        return np.arange(images.n), np.arange(images.n)
    _, first, stored = np.unique(images.particles.image_hash, return_index=True, return_inverse=True)
    return first.astype(np.int64), stored.reshape(-1).astype(np.int64)


class _NullImages:
    """Makes chunks of images, each from its own seed."""

    def __init__(
        self, images: ParticleImages, consensus: NDArray[np.float32], errors: ImageErrors, seed: tuple[int, ...],
        planted: Planted | None,
    ) -> None:  # fmt: skip
        self.images, self.errors, self.seed, self.planted = images, errors, seed, planted
        self.volume = self._transform(consensus)
        self.differences = [] if planted is None else [self._transform(one) for one in planted.differences]
        plane = images.plane
        self.shell = plane.shell[: images.source.n_coefficients]
        self.kxy = plane.kxy[: images.source.n_coefficients]

    def _transform(self, volume: NDArray[np.float32]) -> FourierVolume:
        return FourierVolume.from_map(torch.from_numpy(volume), radius=self.images.plane.radius)

    def chunk(self, chosen: NDArray[np.int64], start: int) -> Tensor:
        """(B, M) complex64 of the images of rows ``chosen`` (B,), as a store holds them; ``start`` seeds the noise."""
        rng = np.random.default_rng([*self.seed, start])
        rows = torch.from_numpy(chosen)
        data = self.images.batch(rows, device="cpu")
        expected = data.ctf * self.volume.slice(data.points)
        size = expected.abs().square().sum(1).clamp_min(torch.finfo(torch.float32).tiny)
        scale = (expected.conj() * data.coefficients).real.sum(1) / size
        power = self._shell_power(data.coefficients - scale[:, None] * expected)
        turned = self._turned(rows, rng)
        at = replace(self.images.subset(rows), rotation=turned.rotation, shift_px=turned.shift_px)
        true = at.batch(torch.arange(len(rows)), device="cpu")
        shown = self.volume.slice(true.points)
        if self.planted is not None:
            for member, difference in zip(self.planted.members(chosen), self.differences, strict=True):
                shown[member] += self.planted.strength * difference.slice(true.points[member])
        signal = self._scales(scale, rng)[:, None] * true.ctf * shown
        normal = torch.from_numpy(rng.standard_normal((*signal.shape, 2), dtype=np.float32)) / math.sqrt(2)
        noise = power.sqrt()[:, self.shell] * torch.view_as_complex(normal)
        return (signal + noise) * shift_phases(self.kxy, turned.shift_px.cpu(), self.images.box_size)

    def _turned(self, rows: Tensor, rng: np.random.Generator) -> Poses:
        """Poses that the particles have, when those that they are said to have are wrong."""
        given = self.images.poses[rows.to(self.images.rotation.device)].to("cpu", torch.float32)
        rotation = Rotation.from_rotvec(rng.normal(0, self.errors.rotation_rad, (len(rows), 3))).as_matrix()
        shift = rng.normal(0, self.errors.shift_px, (len(rows), 2))
        return Poses(
            given.rotation @ torch.from_numpy(rotation).float(), given.shift_px + torch.from_numpy(shift).float()
        )

    def _scales(self, measured: Tensor, rng: np.random.Generator) -> Tensor:
        """Scales as different as the true ones: those measured, without the spread that noise has given them."""
        mean, spread = float(measured.mean()), float(measured.std()) if len(measured) > 1 else 0.0
        share = min(1.0, self.errors.scale / spread) if spread > 0 else 0.0
        return (mean + share * (measured - mean)).clamp_min(0.0)

    def _shell_power(self, residual: Tensor) -> Tensor:
        """(B, S) mean power of each image's residual in each shell, over three neighbouring shells."""
        n_shells = int(self.shell.max()) + 1
        total = shell_sum(residual.abs().square(), self.shell, n_shells).float()
        count = torch.bincount(self.shell, minlength=n_shells).float()
        kernel = torch.ones(1, 1, 3)
        total, count = (
            torch.nn.functional.conv1d(one[:, None], kernel, padding=1)[:, 0] for one in (total, count[None])
        )
        return total / count

"""A specimen whose Fourier transform is known in closed form: a sum of isotropic Gaussians."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class Blobs:
    """Centres (K, 3) x, y, z in voxels from the box centre, widths (K,) in voxels, weights (K,)."""

    centres: NDArray[np.float64]
    widths: NDArray[np.float64]
    weights: NDArray[np.float64]

    def density(self, box_size: int) -> torch.Tensor:
        """(D, D, D) float64, axes z, y, x, origin at voxel D // 2."""
        grid = np.arange(box_size) - box_size // 2
        out = np.zeros((box_size,) * 3)
        for (x, y, z), width, weight in zip(self.centres, self.widths, self.weights, strict=True):
            gx, gy, gz = (np.exp(-((grid - c) ** 2) / (2 * width**2)) for c in (x, y, z))
            out += weight * gz[:, None, None] * gy[None, :, None] * gx[None, None, :]
        return torch.from_numpy(out)

    def transform(self, points: NDArray[np.float64], box_size: int) -> NDArray[np.complex128]:
        """Continuous Fourier transform at (P, 3) points x, y, z in cycles per box."""
        k = points / box_size
        out = np.zeros(len(points), dtype=np.complex128)
        for centre, width, weight in zip(self.centres, self.widths, self.weights, strict=True):
            volume = weight * (2 * np.pi) ** 1.5 * width**3
            out += volume * np.exp(-2 * np.pi**2 * width**2 * (k**2).sum(1)) * np.exp(-2j * np.pi * (k @ centre))
        return out


def blobs(seed: int, count: int = 20, spread_px: float = 6.0) -> Blobs:
    """An asymmetric specimen that fills the middle half of a box of 64."""
    rng = np.random.default_rng(seed)
    centres = np.clip(rng.normal(0, spread_px, (count, 3)), -2.2 * spread_px, 2.2 * spread_px)
    return Blobs(centres, rng.uniform(1.3, 2.5, count), rng.uniform(0.5, 1.5, count))

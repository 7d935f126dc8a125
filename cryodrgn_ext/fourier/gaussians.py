"""Analytic projections of a sum of Gaussians: their central slices without a volume.

A Gaussian at r with amplitude a and standard deviation w has the transform a exp(-2 pi^2 w^2 |k|^2 - 2 pi i k.r), so a
slice at a pose is a sum over the rotated centres. Its phase factors into one of x and one of y, which makes a slice the
product of two matrices: exponentials are taken (X + Y) N times, not X Y N times.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def gaussian_slices(
    ky: Float[Tensor, " Y"],
    kx: Float[Tensor, " X"],
    rotation: Float[Tensor, "B 3 3"],
    positions: Float[Tensor, "*#B N 3"],
    amplitudes: Float[Tensor, " N"],
    width: Float[Tensor, ""],
    box_size: int,
) -> Complex[Tensor, "B Y X"]:
    """Central slices of Gaussians, before CTF and shift, on a rectangle of image frequencies.

    Differentiable with respect to rotations, positions, amplitudes and width. Memory grows as B N (X + Y).

    Parameters
    ----------
    ky, kx : Tensor
        (Y,) and (X,) frequencies in cycles per box.
    rotation : Tensor
        (B, 3, 3) rotations from model coordinates to image coordinates; they multiply column vectors x, y, z.
    positions : Tensor
        (N, 3), or (B, N, 3) for each image its own: x, y, z in voxels from the origin voxel D // 2.
    amplitudes : Tensor
        (N,) integrals of the Gaussians.
    width : Tensor
        Standard deviation of all Gaussians in voxels.
    box_size : int
        Edge D of the box in voxels.

    Returns
    -------
    Tensor
        (B, Y, X) complex, in the convention of :func:`cryodrgn_ext.fourier.slices.map_to_grid`.
    """
    # Sums, not matmul: exact also where TF32 is on.
    seen = (rotation[:, None, :2, :] * positions[..., None, :]).sum(dim=-1) * (2 * math.pi / box_size)
    along_x = _phases(seen[..., 0], kx)
    along_y = _phases(seen[..., 1], ky) * amplitudes[:, None]
    squared = (ky[:, None] ** 2 + kx**2) * (2 * (math.pi / box_size) ** 2)
    return torch.exp(-squared * width**2) * (along_y.transpose(1, 2) @ along_x)


def _phases(angle: Float[Tensor, "B N"], frequencies: Float[Tensor, " K"]) -> Complex[Tensor, "B N K"]:
    """Return exp(-i angle k)."""
    phase = angle[..., None] * frequencies
    return torch.complex(torch.cos(phase), -torch.sin(phase))

"""Analytic transforms of a sum of Gaussians: their central slices without a volume, and their volume without a grid.

A Gaussian at r with amplitude a and standard deviation w has the transform a exp(-2 pi^2 w^2 |k|^2 - 2 pi i k.r), so a
slice at a pose is a sum over the rotated centres. Its phase factors into one of x and one of y, which makes a slice the
product of two matrices: exponentials are taken (X + Y) N times, not X Y N times.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float, Int64
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cryodrgn_ext.fourier.slices import FourierGrid, grid_to_map

#: Tails beyond are held there: products of two stay numbers that processors multiply at full speed.
LEAST_EXPONENT = -40.0
#: Phases of a plane (atoms times z times y) that are held at a time.
PHASES_AT_ONCE = 1 << 23


def gaussian_sections(
    kxy: Int64[Tensor, "M 2"],
    planes: Float[Tensor, "B 2 3"],
    positions: Float[Tensor, "*#B N 3"],
    amplitudes: Float[Tensor, " N"],
    width: Float[Tensor, ""],
    box_size: int,
) -> Complex[Tensor, "B M"]:
    """Central sections of Gaussians, before CTF and shift, at listed image frequencies.

    Differentiable with respect to planes, positions, amplitudes and width. Memory grows as B N (X + Y), the numbers of
    frequencies along x and y.

    Parameters
    ----------
    kxy : Tensor
        (M, 2) integer frequencies x, y in cycles per box, x not negative, as of a half plane.
    planes : Tensor
        (B, 2, 3): image frequency (kx, ky) lies at kx planes[:, 0] + ky planes[:, 1] of the model: the first two rows
        of a rotation from model to image coordinates, or those times an anisotropic magnification.
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
        (B, M) complex, in the convention of :func:`cryodrgn_ext.fourier.slices.map_to_grid`.
    """
    most_x, most_y = int(kxy[:, 0].max()), int(kxy[:, 1].abs().max())
    kx = torch.arange(most_x + 1, device=planes.device, dtype=positions.dtype)
    ky = torch.arange(-most_y, most_y + 1, device=planes.device, dtype=positions.dtype)
    # Sums, not matmul: exact also where TF32 is on.
    seen = (planes[:, None] * positions[..., None, :]).sum(dim=-1) * (2 * math.pi / box_size)
    along_x = _phases(seen[..., 0], kx)
    along_y = _phases(seen[..., 1], ky) * amplitudes[:, None]
    rectangle = (along_y.transpose(1, 2) @ along_x).flatten(1)
    # The magnification moves points off their circle, so the falloff is that of the points themselves.
    points = (kxy[None, :, :, None].to(planes.dtype) * planes[:, None]).sum(dim=2)
    falloff = torch.exp(-2 * (math.pi / box_size) ** 2 * points.square().sum(dim=-1) * width**2)
    return falloff * rectangle[:, (kxy[:, 1] + most_y) * (most_x + 1) + kxy[:, 0]]


def gaussian_images(
    seen: Float[Tensor, "B N 2"], amplitudes: Float[Tensor, " N"], width: Float[Tensor, ""], box_size: int
) -> Float[Tensor, "B D D"]:
    """Projections of Gaussians at the pixels' centres, in real space: the product of one matrix of y and one of x.

    Parameters
    ----------
    seen : Tensor
        (B, N, 2) x, y in pixels from the origin pixel D // 2.
    amplitudes : Tensor
        (N,) integrals of the Gaussians.
    width : Tensor
        Standard deviation of all in pixels; below about 0.8 the pixels' samples no longer hold it (aliasing).
    box_size : int
        D.

    Returns
    -------
    Tensor
        (B, D, D), axes y, x.
    """
    axis = torch.arange(box_size, device=seen.device, dtype=seen.dtype) - box_size // 2
    scaled = -0.5 / width**2
    exponents = [scaled * (axis - one[..., None]) ** 2 for one in seen.unbind(-1)]
    along_x, along_y = (torch.exp(one.clamp_min(LEAST_EXPONENT)) for one in exponents)
    return (along_y * (amplitudes / (2 * math.pi * width**2))[:, None]).transpose(1, 2) @ along_x


def gaussian_spectrum(
    grid: FourierGrid, positions: Float[Tensor, "N 3"], amplitudes: Float[Tensor, " N"], widths: Float[Tensor, " N"]
) -> Complex[Tensor, "Z Z X"]:
    """Transform of a sum of Gaussians, each of its own width, on a centred grid; differentiable.

    Its phases factor into one of each axis. Memory stays bounded and time grows as N times the points of the grid.

    Parameters
    ----------
    grid : FourierGrid
    positions : Tensor
        (N, 3) x, y, z in voxels from the origin voxel D // 2.
    amplitudes : Tensor
        (N,) integrals of the Gaussians.
    widths : Tensor
        (N,) standard deviations in voxels.

    Returns
    -------
    Tensor
        ``grid.shape`` complex, in the convention of :func:`cryodrgn_ext.fourier.slices.map_to_grid`.
    """
    side = 2 * grid.half + 1
    size = max(1, PHASES_AT_ONCE // side**2)
    parts = list(zip(positions.split(size), amplitudes.split(size), widths.split(size), strict=True))
    if len(parts) == 1:
        return _spectrum_part(grid, *parts[0])
    total = torch.zeros(grid.shape, dtype=torch.promote_types(positions.dtype, torch.cfloat), device=positions.device)
    for part in parts:
        added = checkpoint(_spectrum_part, grid, *part, use_reentrant=False)
        assert isinstance(added, Tensor)
        total = total + added
    return total


def gaussian_map(
    box_size: int, positions: Float[Tensor, "N 3"], amplitudes: Float[Tensor, " N"], widths: Float[Tensor, " N"]
) -> Float[Tensor, "{box_size} {box_size} {box_size}"]:
    """Real map (D, D, D), axes z, y, x, of a sum of Gaussians, up to Nyquist; units as in the spectrum."""
    grid = FourierGrid(box_size, box_size // 2, 1)
    return grid_to_map(gaussian_spectrum(grid, positions, amplitudes, widths), grid)


def _spectrum_part(grid: FourierGrid, positions: Tensor, amplitudes: Tensor, widths: Tensor) -> Tensor:
    """Do the work of :func:`gaussian_spectrum` for some Gaussians."""
    k = torch.arange(-grid.half, grid.half + 1, device=positions.device, dtype=positions.dtype) / grid.oversampling
    falloff = torch.exp(-2 * (math.pi / grid.box_size) ** 2 * widths[:, None] ** 2 * k**2)
    along = _phases(positions.T * (2 * math.pi / grid.box_size), k) * falloff
    x, y, z = along[0, :, grid.half :], along[1], along[2] * amplitudes[:, None]
    planes = (z[:, :, None] * y[:, None, :]).flatten(1)
    spectrum: Tensor = (planes.T @ x).reshape(grid.shape)
    return spectrum


def _phases(angle: Float[Tensor, "B N"], frequencies: Float[Tensor, " K"]) -> Complex[Tensor, "B N K"]:
    """Return exp(-i angle k)."""
    phase = angle[..., None] * frequencies
    return torch.complex(torch.cos(phase), -torch.sin(phase))

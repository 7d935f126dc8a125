"""Exact projections and volumes of gaussian beads, computed in Fourier space without interpolation.

The Fourier transform of a gaussian bead at p is separable: exp(-2 pi i k.p) exp(-2 pi^2 sigma^2 |k|^2) is a product of
one factor per axis. An image of n beads is therefore a matrix product (D x n) (n x D) per image, and a batch of images
one batched matrix product. Everything is unnormalised-DFT convention with the phase origin at pixel D // 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BEAD_WAVES_AT_ONCE = 1_000_000


def _cosines_and_sines(coordinate_px: Tensor, box_size: int) -> Tensor:
    """(2K, B, n) cos, then sin, of 2 pi k x / D for k = 0..K-1, K = D // 2, of x (B, n); no Nyquist line.

    Only powers of two are evaluated, in float64; the rest follows by the addition theorem, doubling the list each time
    (so float32 error grows with log K only), which is several times cheaper than as many calls of sin and cos.
    """
    half = box_size // 2
    waves = torch.empty((2, half, *coordinate_px.shape), dtype=torch.float32, device=coordinate_px.device)
    waves[0, 0] = 1.0
    waves[1, 0] = 0.0
    known = 1
    while known < half:
        step = coordinate_px.double() * (2 * math.pi * known / box_size)
        cos, sin = torch.cos(step).float(), torch.sin(step).float()
        more = min(known, half - known)
        old_cos, old_sin = waves[0, :more], waves[1, :more]
        waves[0, known : known + more] = torch.addcmul(old_cos * cos, old_sin, sin, value=-1.0)
        waves[1, known : known + more] = torch.addcmul(old_sin * cos, old_cos, sin)
        known += more
    return waves.flatten(0, 1)


def _envelope(sigma_px: float, box_size: int, device: torch.device) -> Tensor:
    """(K,) exp(-2 pi^2 sigma^2 (k/D)^2) for k = 0..K-1."""
    k = torch.arange(box_size // 2, dtype=torch.float64, device=device) / box_size
    return torch.exp(-2 * math.pi**2 * sigma_px**2 * k**2).float()


def project_beads(position_px: Tensor, weight: Tensor, sigma_px: float, box_size: int) -> Tensor:
    """Fourier transforms of projections of beads.

    Parameters
    ----------
    position_px : Tensor
        (B, n, 2) x, y of the beads in the image, in pixels from pixel D // 2.
    weight : Tensor
        (B, n) masses.
    sigma_px : float
        Width of the beads in pixels.
    box_size : int
        Even box size D.

    Returns
    -------
    Tensor
        (B, D, D // 2 + 1) complex64 in ``rfft2`` layout with the phase origin at pixel (0, 0), so that ``irfft2``
        gives an image whose origin is pixel D // 2. Nyquist lines are zero.
    """
    # Pieces that stay in the cache of a core.
    images_at_once = max(1, BEAD_WAVES_AT_ONCE // (position_px.shape[1] * box_size))
    pieces = [
        _project_piece(*piece, sigma_px, box_size)
        for piece in zip(position_px.split(images_at_once), weight.split(images_at_once), strict=True)
    ]
    return torch.cat(pieces)


def _project_piece(position_px: Tensor, weight: Tensor, sigma_px: float, box_size: int) -> Tensor:
    """Do the work of :func:`project_beads` for a few images."""
    half = box_size // 2
    along_x = _cosines_and_sines(position_px[..., 0], box_size)
    along_y = _cosines_and_sines(position_px[..., 1], box_size).mul_(weight.float())
    # Real products of cos and sin cost half of the complex product and serve ky and -ky at once.
    product = along_y.transpose(0, 1) @ along_x.permute(1, 2, 0)
    cos_cos, cos_sin = product[:, :half, :half], product[:, :half, half:]
    sin_cos, sin_sin = product[:, half:, :half], product[:, half:, half:]
    spectrum = torch.zeros((len(product), box_size, half + 1), dtype=torch.complex64, device=product.device)
    spectrum[:, :half, :half] = torch.complex(cos_cos - sin_sin, -(cos_sin + sin_cos))
    negative = torch.complex(cos_cos + sin_sin, sin_cos - cos_sin)  # row r belongs to ky = -r
    spectrum[:, half + 1 :, :half] = negative[:, 1:].flip(1)
    return spectrum * _plane_factor(sigma_px, box_size, product.device)


def _plane_factor(sigma_px: float, box_size: int, device: torch.device) -> Tensor:
    """(D, D // 2 + 1) bead envelope times (-1)^(kx + ky), which moves the origin to pixel D // 2."""
    half = box_size // 2
    envelope = _envelope(sigma_px, box_size, device) * (1.0 - 2.0 * (torch.arange(half, device=device) % 2))
    x = torch.cat([envelope, torch.zeros(1, device=device)])
    y = torch.cat([envelope, torch.zeros(1, device=device), envelope[1:].flip(0)])
    return y[:, None] * x[None, :]


def bead_volume(position_px: Tensor, weight: Tensor, sigma_px: float, box_size: int) -> Tensor:
    """Density of beads on the grid of a box.

    Parameters
    ----------
    position_px : Tensor
        (n, 3) x, y, z in pixels from voxel D // 2.
    weight : Tensor
        (n,) masses.
    sigma_px : float
        Width of the beads in pixels.
    box_size : int
        Even box size D.

    Returns
    -------
    Tensor
        (D, D, D) float32, axes z, y, x, origin at voxel D // 2. Its central slices are exactly the projections of
        :func:`project_beads`; the Nyquist planes are zero.
    """
    half = box_size // 2
    k = torch.arange(-half + 1, half, dtype=torch.float32)
    position = position_px.float()

    def waves(axis: int, frequency: Tensor) -> Tensor:
        phase = position[:, axis, None] * (frequency * (2 * math.pi / box_size))
        return torch.polar(torch.ones_like(phase), -phase)

    x = waves(0, k[half - 1 :]) * weight[:, None].float()
    y, z = waves(1, k), waves(2, k)
    spectrum = torch.zeros((box_size, box_size, half + 1), dtype=torch.complex64)
    rows = torch.arange(-half + 1, half) % box_size
    z_transposed = z.T.contiguous()
    for i in range(box_size - 1):  # one GEMM per ky: memory stays at n x D
        spectrum[rows, rows[i], :half] = z_transposed @ (x * y[:, i, None])
    envelope = _envelope(sigma_px, box_size, spectrum.device) * (1.0 - 2.0 * (torch.arange(half) % 2))
    along = torch.cat([envelope, torch.zeros(1), envelope[1:].flip(0)])
    spectrum *= along[:, None, None] * along[None, :, None] * torch.cat([envelope, torch.zeros(1)])
    volume: Tensor = torch.fft.irfftn(spectrum, s=(box_size,) * 3)
    return volume

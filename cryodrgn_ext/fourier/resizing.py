"""Maps on coarser grids of the same extent, by cropping their Fourier transform."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def crop_map(volume: Float[Tensor, "D D D"], box_size: int) -> Float[Tensor, "d d d"]:
    """The same map in a smaller box of the same extent in Å; densities keep their values.

    Parameters
    ----------
    volume : Tensor
        (D, D, D) real, origin at voxel D // 2.
    box_size : int
        Even edge of the result, at most D.

    Returns
    -------
    Tensor
        (box_size, box_size, box_size) float32, origin at voxel box_size // 2.
    """
    d = volume.shape[0]
    if volume.shape != (d, d, d) or box_size % 2 or not 0 < box_size <= d:
        raise ValueError(f"cannot crop a map of shape {tuple(volume.shape)} to an even box of {box_size}")
    if box_size == d:
        return volume.float()
    spectrum = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(volume.float())))
    start = d // 2 - box_size // 2
    part = slice(start, start + box_size)
    cropped: Tensor = torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(spectrum[part, part, part]))).real
    return cropped * (box_size / d) ** 3

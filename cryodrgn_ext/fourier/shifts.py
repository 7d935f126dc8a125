"""In-plane displacements as phase ramps (the shift theorem)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float, Real
from torch import Tensor


def shift_phases(
    kxy: Real[Tensor, "M 2"], shift_px: Float[Tensor, "*batch 2"], box_size: int
) -> Complex[Tensor, "*batch M"]:
    """Factors that displace a centred particle by ``shift_px``: exp(-2 pi i k.t / D).

    Multiply a centred particle's coefficients by them to move it to +t; multiply an image's coefficients by the
    conjugate to centre the particle. RELION's origin is the negative of t: t_x = -rlnOriginXAngst / pixel size.

    Parameters
    ----------
    kxy : Tensor
        (M, 2) frequencies (kx, ky) in cycles per box.
    shift_px : Tensor
        (B, 2) displacement (x, y) of the particle from the box centre, in pixels of the same box.
    box_size : int
        Pixels D along each edge of that box.

    Returns
    -------
    Tensor
        (B, M) complex64 (complex128 for float64 shifts).
    """
    k = kxy.to(shift_px)
    cycles = (shift_px[:, :1] * k[:, 0] + shift_px[:, 1:] * k[:, 1]) / box_size
    angle = -2.0 * math.pi * cycles
    return torch.complex(angle.cos(), angle.sin())

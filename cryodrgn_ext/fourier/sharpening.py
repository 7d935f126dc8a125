"""B-factor sharpening and its estimate from the Guinier plot."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.shells import half_volume_multiplicity, half_volume_norm, shell_mean


def apply_b_factor(volume: Tensor, b_A2: float, pixel_size_A: float) -> Tensor:
    """Multiply a map's Fourier transform by exp(-B k^2 / 4), k in 1/Å.

    Parameters
    ----------
    volume : Tensor
        (D, D, D) real.
    b_A2 : float
        B in Å^2: positive blurs, negative sharpens.
    pixel_size_A : float

    Returns
    -------
    Tensor
        (D, D, D) float32.
    """
    d = volume.shape[0]
    k = half_volume_norm(d, volume.device) / (d * pixel_size_A)
    spectrum = torch.fft.rfftn(volume.float()) * torch.exp(-0.25 * b_A2 * k**2)
    out: Tensor = torch.fft.irfftn(spectrum, s=volume.shape)
    return out


def guinier_b_factor(
    volume: Tensor, pixel_size_A: float, low_res_A: float = 10.0, high_res_A: float | None = None
) -> float:
    """B-factor of a map from its Guinier plot (Rosenthal and Henderson 2003).

    Fits ``ln(mean |F| in a shell) = c - (B / 4) k^2`` between two resolutions. Sharpen with
    ``apply_b_factor(volume, -B, pixel_size_A)``. RELION reports the negative of this number.

    Parameters
    ----------
    volume : Tensor
        (D, D, D) real.
    pixel_size_A : float
    low_res_A : float
        Start of the fit; below 10 Å resolution the shape of the molecule dominates the amplitudes.
    high_res_A : float, optional
        End of the fit, usually the resolution of the map; Nyquist when omitted.

    Returns
    -------
    float
        B in Å^2, positive for a map that fades towards high resolution.

    Raises
    ------
    InputError
        When fewer than three shells with power lie between the two resolutions.
    """
    d = volume.shape[0]
    edge_A = d * pixel_size_A
    finest = 2.0 * pixel_size_A if high_res_A is None else high_res_A
    shell = half_volume_norm(d, volume.device).round().long()
    multiplicity = half_volume_multiplicity(d, volume.device).expand(shell.shape)
    amplitude = torch.fft.rfftn(volume.double()).abs()
    mean = shell_mean(amplitude.flatten(), shell.flatten(), d // 2 + 1, multiplicity.flatten()).cpu().numpy()
    shells = np.arange(d // 2 + 1)
    used = (shells >= edge_A / low_res_A) & (shells <= edge_A / finest) & (mean > 0)
    if used.sum() < 3:
        raise InputError(
            f"the Guinier fit from {low_res_A:g} to {finest:g} Å covers {int(used.sum())} shells of a box of {d} px "
            f"at {pixel_size_A:g} Å; at least 3 are needed, so widen the range"
        )
    slope = np.polyfit((shells[used] / edge_A) ** 2, np.log(mean[used]), 1)[0]
    return float(-4.0 * slope)

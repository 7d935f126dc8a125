"""B-factor sharpening and its estimate from the Guinier plot."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.masks import cosine_edge
from cryodrgn_ext.fourier.shells import apply_radial_weights, half_volume_multiplicity, half_volume_norm, shell_mean

GUINIER_LOW_RES_A = 10.0
LOW_PASS_EDGE_SHELLS = 2.0


def apply_b_factor(volume: Float[Tensor, "D D D"], b_A2: float, pixel_size_A: float) -> Float[Tensor, "D D D"]:
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


@dataclass(frozen=True)
class GuinierFit:
    """The Guinier plot of a map, and the straight line through part of it (Rosenthal & Henderson 2003).

    Attributes
    ----------
    inverse_square_A : ndarray
        (S,) k^2 in 1/Å^2 of the shells with power.
    log_amplitude : ndarray
        (S,) natural logarithm of the mean of |F| in each of them.
    fitted : ndarray
        (S,) bool, the shells that the line was fitted to.
    b_factor_A2 : float
        B, positive for a map that fades towards high resolution; RELION reports its negative.
    intercept : float
        Of the line at k = 0.
    """

    inverse_square_A: NDArray[np.float64]
    log_amplitude: NDArray[np.float64]
    fitted: NDArray[np.bool_]
    b_factor_A2: float
    intercept: float


def guinier_fit(
    volume: Float[Tensor, "D D D"],
    pixel_size_A: float,
    low_res_A: float = GUINIER_LOW_RES_A,
    high_res_A: float | None = None,
) -> GuinierFit:
    """Fit ``ln(mean |F| in a shell) = c - (B / 4) k^2`` between two resolutions.

    Sharpen with ``apply_b_factor(volume, -B, pixel_size_A)``.

    Parameters
    ----------
    volume : Tensor
        (D, D, D) real.
    pixel_size_A : float
    low_res_A : float
        Start of the fit; below 10 Å resolution the shape of the molecule dominates the amplitudes.
    high_res_A : float, optional
        End of the fit, usually the resolution of the map; Nyquist when omitted.

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
    shells = np.flatnonzero(mean > 0)
    used = (shells >= edge_A / low_res_A) & (shells <= edge_A / finest)
    if used.sum() < 3:
        raise InputError(
            f"the Guinier fit from {low_res_A:g} to {finest:g} Å covers {int(used.sum())} shells of a box of {d} px "
            f"at {pixel_size_A:g} Å; at least 3 are needed, so widen the range"
        )
    x, y = (shells / edge_A) ** 2, np.log(mean[shells])
    slope, intercept = np.polyfit(x[used], y[used], 1)
    return GuinierFit(x, y, used, float(-4.0 * slope), float(intercept))


def sharpen_half_maps(
    half1: Float[Tensor, "D D D"],
    half2: Float[Tensor, "D D D"],
    fsc: NDArray[np.floating],
    pixel_size_A: float,
    resolution_A: float,
    b_factor_A2: float | None = None,
) -> tuple[Float[Tensor, "D D D"], GuinierFit | None]:
    """Average two half-maps, weight them by their FSC, sharpen, and cut at the resolution, as RELION's postprocessing.

    The weight is sqrt(2 FSC / (1 + FSC)), the correlation of the average with the truth (Rosenthal & Henderson 2003).

    Parameters
    ----------
    half1, half2 : Tensor
        (D, D, D) unfiltered.
    fsc : ndarray
        (D // 2 + 1,) between them.
    pixel_size_A : float
    resolution_A : float
        Of the map: the Guinier fit ends here, and a cosine of two shells.
    b_factor_A2 : float, optional
        B to take away, instead of that of the Guinier plot.

    Returns
    -------
    (Tensor, GuinierFit or None)
        (D, D, D) float32, and the plot of the weighted average before it was sharpened; None when it has fewer than
        three shells between 10 Å and the resolution, and B is given.

    Raises
    ------
    InputError
        When B is not given, and the Guinier plot has fewer than three shells.
    """
    d = half1.shape[0]
    positive = np.clip(np.asarray(fsc, np.float64), 0.0, 1.0)
    weighted = apply_radial_weights(0.5 * (half1 + half2), torch.from_numpy(np.sqrt(2 * positive / (1 + positive))))
    fit: GuinierFit | None = None
    if b_factor_A2 is None:
        fit = guinier_fit(weighted, pixel_size_A, high_res_A=resolution_A)
        b_factor_A2 = fit.b_factor_A2
    else:
        with suppress(InputError):
            fit = guinier_fit(weighted, pixel_size_A, high_res_A=resolution_A)
    middle = d * pixel_size_A / resolution_A
    low_pass = cosine_edge(np.arange(d // 2 + 1.0), middle - 0.5 * LOW_PASS_EDGE_SHELLS, LOW_PASS_EDGE_SHELLS)
    return apply_radial_weights(apply_b_factor(weighted, -b_factor_A2, pixel_size_A), torch.from_numpy(low_pass)), fit

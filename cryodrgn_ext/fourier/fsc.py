"""Fourier shell correlation between maps, and the resolution that it implies."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.fourier.shells import half_volume_multiplicity, half_volume_norm

RANDOMISE_BELOW_FSC = 0.8  # phases are randomised from the shell where the unmasked FSC falls below this


def _spectrum(volume: Tensor, mask: Tensor | None) -> Tensor:
    values = volume.double()
    spectrum: Tensor = torch.fft.rfftn(values if mask is None else values * mask.double())
    return spectrum


def _check_shapes(a: Tensor, b: Tensor, mask: Tensor | None) -> int:
    d = a.shape[0]
    for name, volume in (("first map", a), ("second map", b), ("mask", mask)):
        if volume is not None and volume.shape != (d, d, d):
            raise ValueError(f"the {name} has shape {tuple(volume.shape)}, {(d, d, d)} expected")
    return d


def fsc(
    a: Float[Tensor, "_ _ _"], b: Float[Tensor, "_ _ _"], mask: Float[Tensor, "_ _ _"] | None = None
) -> NDArray[np.float64]:
    """Fourier shell correlation of two maps.

    ``FSC(s) = Re sum A conj(B) / sqrt(sum |A|^2 sum |B|^2)`` over the coefficients with |k| nearest to s.

    Parameters
    ----------
    a, b : Tensor
        (D, D, D) real maps.
    mask : Tensor, optional
        (D, D, D), multiplied onto both maps.

    Returns
    -------
    ndarray
        (D // 2 + 1,) float64 for shells 0 .. D // 2; 0 where a map has no power.
    """
    d = _check_shapes(a, b, mask)
    fa = _spectrum(a, mask)
    fb = fa if b is a else _spectrum(b, mask)
    shell = half_volume_norm(d, a.device).round().long()
    multiplicity = half_volume_multiplicity(d, a.device)
    n_shells = d // 2 + 1
    sums = torch.zeros((3, n_shells + 1), dtype=torch.float64, device=a.device)
    for plane in range(d):  # one plane at a time: no temporaries of the size of the map
        pa, pb = fa[plane], fb[plane]
        index = shell[plane].clamp(max=n_shells).flatten()
        for row, values in enumerate(((pa * pb.conj()).real, pa.abs() ** 2, pb.abs() ** 2)):
            sums[row].index_add_(0, index, (values * multiplicity).flatten())
    cross, power_a, power_b = sums[:, :n_shells].cpu().numpy()
    norm = np.sqrt(power_a * power_b)
    curve: NDArray[np.float64] = np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0)
    return curve


def resolution_A(curve: NDArray[np.float64], pixel_size_A: float, box_size: int, threshold: float = 0.143) -> float:
    """Resolution in Å where the curve first falls below ``threshold``, linear between the two shells.

    Parameters
    ----------
    curve : ndarray
        (S,) FSC of shells 0 .. S - 1. Shell 0 is taken as 1 (it holds only the means of the maps).
    pixel_size_A : float
    box_size : int
        D of the maps, so that shell s is ``s / (D * pixel_size_A)`` in 1/Å.
    threshold : float
        0.143 between half-maps, 0.5 against a reference.

    Returns
    -------
    float
        The resolution of the last shell when the curve never falls below the threshold.
    """
    values = np.asarray(curve, dtype=np.float64).copy()
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"an FSC curve of at least two shells expected, got shape {values.shape}")
    values[0] = 1.0
    below = np.flatnonzero(values < threshold)
    if len(below) == 0:
        crossing = float(len(values) - 1)
    else:
        s = int(below[0])
        crossing = s - 1 + (values[s - 1] - threshold) / (values[s - 1] - values[s])
    return box_size * pixel_size_A / crossing if crossing > 0 else float("inf")


def phase_randomised(volume: Float[Tensor, "D D D"], from_shell: int, seed: int) -> Float[Tensor, "D D D"]:
    """The map with random phases at |k| >= ``from_shell`` and unchanged amplitudes.

    The phases are those of a map of Gaussian noise, so the result is real.
    """
    d = volume.shape[0]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.fft.rfftn(torch.randn(volume.shape, generator=generator, dtype=torch.float64).to(volume.device))
    spectrum = torch.fft.rfftn(volume.double())
    randomised = spectrum.abs() * noise / noise.abs().clamp(min=1e-300)
    high = half_volume_norm(d, volume.device).round() >= from_shell
    out: Tensor = torch.fft.irfftn(torch.where(high, randomised, spectrum), s=volume.shape).to(volume.dtype)
    return out


def corrected_fsc(
    half1: Float[Tensor, "D D D"], half2: Float[Tensor, "D D D"], mask: Float[Tensor, "D D D"], seed: int = 0
) -> NDArray[np.float64]:
    """FSC of masked half-maps, corrected for the correlation that the mask itself brings (Chen et al. 2013).

    Beyond the shell where the unmasked FSC falls below 0.8, phases are randomised and the FSC of the masked,
    randomised maps, FSC_r, is removed: (FSC_m - FSC_r) / (1 - FSC_r), from two shells further on, as RELION's
    postprocessing does.

    Parameters
    ----------
    half1, half2, mask : Tensor
        (D, D, D).
    seed : int
        Of the random phases.

    Returns
    -------
    ndarray
        (D // 2 + 1,) float64.
    """
    unmasked = fsc(half1, half2)
    masked = fsc(half1, half2, mask)
    below = np.flatnonzero(unmasked[1:] < RANDOMISE_BELOW_FSC)
    if len(below) == 0:
        return masked
    start = int(below[0]) + 1
    randomised = fsc(phase_randomised(half1, start, 2 * seed), phase_randomised(half2, start, 2 * seed + 1), mask)
    out = masked.copy()
    tail = slice(start + 2, None)
    correctable = randomised[tail] < 1.0 - 1e-6
    out[tail] = np.where(
        correctable, (masked[tail] - randomised[tail]) / np.where(correctable, 1.0 - randomised[tail], 1.0), 0.0
    )
    return out

"""Radial shells of Fourier space: |k| in cycles per box, rounded to the nearest integer."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float, Float32, Float64, Integer, Real
from torch import Tensor


def half_volume_norm(box_size: int, device: torch.device | str | None = None) -> Float32[Tensor, "D D X"]:
    """|k| in cycles per box for each element of an ``rfftn`` of a cube: (D, D, D // 2 + 1) float32."""
    full = torch.fft.fftfreq(box_size, 1.0 / box_size, device=device)
    half = torch.fft.rfftfreq(box_size, 1.0 / box_size, device=device)
    norm: Tensor = (full[:, None, None] ** 2 + full[None, :, None] ** 2 + half[None, None, :] ** 2).sqrt()
    return norm


def half_volume_multiplicity(box_size: int, device: torch.device | str | None = None) -> Float64[Tensor, " X"]:
    """(D // 2 + 1,) float64: how many elements of the full transform each column of an ``rfftn`` stands for."""
    weight = torch.full((box_size // 2 + 1,), 2.0, dtype=torch.float64, device=device)
    weight[0] = weight[-1] = 1.0
    return weight


def shell_sum(
    values: Real[Tensor, "*batch M"], shell: Integer[Tensor, " M"], n_shells: int
) -> Float64[Tensor, "*batch S"]:
    """Sums of real values over shells, in float64.

    Parameters
    ----------
    values : Tensor
        (..., M) real; leading dimensions are kept.
    shell : Tensor
        (M,) integer shell of each value; shells beyond the last are dropped.
    n_shells : int
        Number S of shells.

    Returns
    -------
    Tensor
        (..., S) float64.
    """
    index = shell.long().clamp(max=n_shells)
    out = torch.zeros((*values.shape[:-1], n_shells + 1), dtype=torch.float64, device=values.device)
    out.index_add_(-1, index, values.double())
    return out[..., :n_shells]


def shell_mean(
    values: Real[Tensor, "*batch M"],
    shell: Integer[Tensor, " M"],
    n_shells: int,
    multiplicity: Float[Tensor, " M"] | None = None,
) -> Float64[Tensor, "*batch S"]:
    """Means of real values (..., M) over shells (M,), in float64; 0 where a shell is empty.

    ``multiplicity`` (M,) counts how many coefficients of the full plane or volume each value stands for.
    """
    weight = torch.ones(len(shell), dtype=torch.float64, device=values.device)
    if multiplicity is not None:
        weight = multiplicity.to(weight)
    counts = shell_sum(weight, shell, n_shells)
    return shell_sum(values.double() * weight, shell, n_shells) / counts.clamp(min=1e-300)


def shell_power(
    coefficients: Complex[Tensor, "*batch M"],
    shell: Integer[Tensor, " M"],
    n_shells: int,
    multiplicity: Float[Tensor, " M"] | None = None,
) -> Float64[Tensor, "*batch S"]:
    """Mean |F|^2 per shell of coefficients (..., M): (..., S) float64. White noise of variance v has power v D^d."""
    power = coefficients.real.double() ** 2 + coefficients.imag.double() ** 2
    return shell_mean(power, shell, n_shells, multiplicity)


def shell_products(a: Float[Tensor, "D D D"], b: Float[Tensor, "D D D"]) -> Float64[Tensor, " S"]:
    """Mean of Re A conj(B) per shell of two maps (D, D, D): (D // 2 + 1,) float64; their common power."""
    d = a.shape[0]
    shell = half_volume_norm(d, a.device).round().long()
    multiplicity = half_volume_multiplicity(d, a.device).expand(shell.shape)
    products = (torch.fft.rfftn(a.float()) * torch.fft.rfftn(b.float()).conj()).real
    return shell_mean(products.flatten(), shell.flatten(), d // 2 + 1, multiplicity.flatten())


def apply_radial_weights(volume: Float[Tensor, "D D D"], weights: Real[Tensor, " S"]) -> Float32[Tensor, "D D D"]:
    """Multiply a map's Fourier transform by a radial function given per shell.

    Parameters
    ----------
    volume : Tensor
        (D, D, D) real.
    weights : Tensor
        (D // 2 + 1,) real, at |k| = 0, 1, ..., D // 2 cycles per box; linear in between, and the last value holds
        for the corners of the cube.

    Returns
    -------
    Tensor
        (D, D, D) float32.
    """
    d = volume.shape[0]
    if weights.shape != (d // 2 + 1,):
        raise ValueError(f"{d // 2 + 1} radial weights expected for a box of {d}, got shape {tuple(weights.shape)}")
    spectrum = torch.fft.rfftn(volume.float())
    table = weights.to(device=volume.device, dtype=torch.float32)
    norm = half_volume_norm(d, volume.device).clamp(max=d // 2)
    low = norm.floor().long()
    fraction = norm - low
    spectrum *= table[low] * (1.0 - fraction) + table[(low + 1).clamp(max=d // 2)] * fraction
    out: Tensor = torch.fft.irfftn(spectrum, s=volume.shape)
    return out

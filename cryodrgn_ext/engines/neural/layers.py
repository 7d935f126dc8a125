"""Building blocks of the networks: Fourier features of coordinates and residual multilayer perceptrons."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn
from torch.nn import functional

SUPPORT_RADIUS = 0.42  # of the box: particles lie within, beyond it the images are windowed away
SUPPORT_FEATURES = 96


def feature_frequencies(kind: str, box_size: int, sigma: float, generator: torch.Generator) -> Float32[Tensor, "F 3"]:
    """Frequencies of the Fourier features, in radians per (cycle per box).

    A feature pair is cos and sin of ``p . f`` for a point p in cycles per box, so ``f / (2 pi)`` is a position in
    units of the box: the network's first layer sees Fourier series of point sources at those positions.

    Parameters
    ----------
    kind : str
        ``support``: positions uniform in a sphere of radius ``SUPPORT_RADIUS`` boxes. ``gaussian``: frequencies
        from a normal distribution as in Tancik et al. (Zhong 2022, 3.1.1), ``sigma`` / 2 radians per cycle per box.
        ``geometric``: the axis-aligned series of Zhong 2022, eq. 3.3, wavelengths from 2 / D to 1.
        ``geometric_lowpass``: the same with wavelengths scaled by 2 pi, for noisy images (Zhong 2022, 5.6.1).
    box_size : int
        D, voxels.
    sigma : float
        Width of the Gaussian kind.
    generator : torch.Generator
        Seeded, on the CPU.

    Returns
    -------
    Tensor
        (F, 3) float32.
    """
    if kind == "support":
        direction = torch.randn(SUPPORT_FEATURES, 3, generator=generator)
        radius = SUPPORT_RADIUS * torch.rand(SUPPORT_FEATURES, 1, generator=generator) ** (1 / 3)
        positions: Tensor = radius * direction / direction.norm(dim=1, keepdim=True)
        return 2 * math.pi * positions
    if kind == "gaussian":
        return torch.randn(3 * (box_size // 2), 3, generator=generator) * (sigma / 2)
    if kind in ("geometric", "geometric_lowpass"):
        # gamma(d) = D pi (2 / D)^(d / (D/2 - 1)) acts on k in cycles per voxel, hence / D.
        count = box_size // 2
        gamma = math.pi * (2.0 / box_size) ** (torch.arange(count) / (count - 1))
        if kind == "geometric_lowpass":
            gamma = gamma / (2 * math.pi)
        return torch.cat([gamma[:, None] * axis for axis in torch.eye(3)])
    raise ValueError(f"unknown kind of Fourier features '{kind}'")


class FourierFeatures(nn.Module):
    """cos and sin of points along fixed frequencies: (..., 3) -> (..., 2 F).

    The phases are computed in float32 also under autocast: at |k| of 100 cycles per box a bfloat16 phase is noise.
    """

    frequencies: Tensor

    def __init__(self, frequencies: Tensor) -> None:
        super().__init__()
        self.register_buffer("frequencies", frequencies)

    @property
    def width(self) -> int:
        """Number of features, 2 F."""
        return 2 * len(self.frequencies)

    def forward(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch width"]:
        """Features of points (..., 3) in cycles per box."""
        with torch.autocast(points.device.type, enabled=False):
            phase = points.to(self.frequencies.dtype) @ self.frequencies.T
            return torch.cat([phase.cos(), phase.sin()], dim=-1)


class ResidualLayer(nn.Module):
    """x + relu(W x + b), or relu(x + W x + b).

    Parameters
    ----------
    width : int
    of_sums : bool
        True gives the second form, the published one (Zhong 2022, 5.6.1). At the published learning rate it tells
        latents in fewer passes; at rates tens of times higher nodes that were turned off stay so, and the first
        form, where what a layer was given always comes through, learns more.
    """

    def __init__(self, width: int, of_sums: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.of_sums = of_sums

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """(..., width) -> (..., width)."""
        change = self.linear(x)
        return functional.relu(x + change) if self.of_sums else x + functional.relu(change)


def residual_layers(width: int, layers: int, of_sums: bool = False) -> list[nn.Module]:
    """Residual layers of ``width`` nodes; see :class:`ResidualLayer`."""
    return [ResidualLayer(width, of_sums) for _ in range(layers)]


def residual_mlp(inputs: int, width: int, layers: int, outputs: int, of_sums: bool = False) -> nn.Sequential:
    """Perceptron with ``layers`` hidden residual layers of ``width`` nodes, ReLU, linear at the end."""
    first = nn.Linear(inputs, width)  # before the others, as it always was: a seed gives the same weights
    hidden = residual_layers(width, layers, of_sums)
    return nn.Sequential(first, nn.ReLU(), *hidden, nn.Linear(width, outputs))


def to_half_space(points: Float[Tensor, "*batch 3"]) -> tuple[Float[Tensor, "*batch 3"], Bool[Tensor, "*batch"]]:
    """Move points to the half space x >= 0 and say which were flipped: one evaluation serves k and -k.

    Returns
    -------
    (points, flipped) : (..., 3) and (...) bool
        The value at a flipped point is the complex conjugate of the value at its partner.
    """
    flipped = points[..., 0] < 0
    return torch.where(flipped[..., None], -points, points), flipped

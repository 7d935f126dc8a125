"""How evenly views fill Fourier space.

Every image fills the plane across its direction of view. The sampling of a direction of Fourier space is the share of
planes that pass close to it, over what even views would give; its harmonic mean over all directions is what a
reconstruction is worth (Baldwin and Lyumkis 2020, Prog. Biophys. Mol. Biol. 150, 160). Views all from the side of one
axis, the fewest that leave no gap, give 8 / pi² = 0.81; where much less is reached, a map is stretched by what it
lacks, and images can be turned towards each other with hardly a loss.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

#: Evenness of views all from the side of one axis.
SIDE_VIEWS = 8.0 / math.pi**2
#: Planes within this of a direction pass close to it.
CLOSE_DEG = 10.0
DIRECTIONS = 400
VIEWS_AT_ONCE = 1 << 14


def evenness(rotation: Float[Tensor, "N 3 3"]) -> float:
    """Harmonic mean of the sampling over directions: 1 for even views, 0 where a direction is never seen.

    Parameters
    ----------
    rotation : Tensor
        (N, 3, 3) from model to image coordinates.
    """
    number = torch.arange(DIRECTIONS, dtype=torch.float64) + 0.5
    z, turn = 1.0 - number / DIRECTIONS, number * (math.pi * (3.0 - math.sqrt(5.0)))  # half of a Fibonacci sphere
    across = (1.0 - z.square()).sqrt()
    direction = torch.stack([across * turn.cos(), across * turn.sin(), z], dim=1)
    least = math.sin(math.radians(CLOSE_DEG))
    close = torch.zeros(DIRECTIONS, dtype=torch.float64)
    for views in rotation[:, 2].cpu().double().split(VIEWS_AT_ONCE):
        close += ((views @ direction.T).abs() < least).double().sum(0)
    sampling = close / (len(rotation) * least)
    return float(1.0 / (1.0 / sampling.clamp_min(1e-9)).mean())

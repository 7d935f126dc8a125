"""Grids of in-plane translations."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def shift_grid(extent_px: float, count: int) -> Float[Tensor, "count_squared 2"]:
    """Centres of count x count equal cells that tile the square [-extent, extent]² (Zhong 2022, 5.6.1).

    Parameters
    ----------
    extent_px : float
        Half of the square's edge, in pixels.
    count : int
        Cells along each edge; with an odd number the origin is one of the centres.

    Returns
    -------
    Tensor
        (count², 2) float32 x, y. The spacing is 2 extent / count. Entry i is the negative of entry count² - 1 - i.
    """
    if count < 1 or extent_px < 0:
        raise ValueError(f"a shift grid needs count >= 1 and extent_px >= 0, got {count} and {extent_px}")
    axis = (torch.arange(count, dtype=torch.float32) - (count - 1) / 2) * (2.0 * extent_px / count)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)

"""Components held to regions of real space."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from cryodrgn_ext.engines.subspace.grid import ComponentGrid


def restriction(
    first: Float[Tensor, "D D D"], others: Float[Tensor, "D D D"]
) -> Callable[[ComponentGrid, Tensor], Tensor]:
    """Function that multiplies components by masks in real space: P_0 by the first, all others by the second."""

    def apply(grid: ComponentGrid, values: Tensor) -> Tensor:
        out = torch.zeros_like(values)
        used = (values != 0).flatten(0, -2).any(dim=0).tolist()  # one wait for a GPU, not one for each component
        average, others_there = first.to(values.device), others.to(values.device)
        for j, filled in enumerate(used):
            if filled:
                mask = average if j == 0 else others_there
                out[..., j] = grid.from_map(grid.to_map(values[..., j].contiguous()) * mask)
        return out

    return apply


def resampled(mask: Float[Tensor, "D D D"], box_size: int) -> Float[Tensor, "S S S"]:
    """A smooth mask of the same extent at another number of samples S along each edge."""
    if len(mask) == box_size:
        return mask
    step = len(mask) / box_size
    offset = len(mask) // 2 - step * (box_size // 2)
    found = ndimage.affine_transform(
        mask.numpy(), np.full(3, step), np.full(3, offset), (box_size,) * 3, order=1, mode="nearest"
    )  # fmt: skip
    return torch.from_numpy(found)


def held_to(
    grid: ComponentGrid, values: Float[Tensor, "V 2 Qp"], first: Float[Tensor, "D D D"], others: Float[Tensor, "D D D"]
) -> Float[Tensor, "V 2 Qp"]:
    """Components multiplied by masks as :func:`restriction` does, on as few samples as keep what folds out of the band.

    A mask's own frequencies above the band's radius R are next to nothing; with 3 R samples no others fold back.
    """
    coarse = ComponentGrid(min(grid.box_size, 2 * (3 * grid.radius // 2 + 1)), grid.radius)
    return restriction(resampled(first, coarse.box_size), resampled(others, coarse.box_size))(coarse, values)

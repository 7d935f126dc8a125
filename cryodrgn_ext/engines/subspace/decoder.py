"""Components held to regions of real space."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from cryodrgn_ext.engines.subspace.grid import ComponentGrid


def restriction(
    first: Float[Tensor, "D D D"], others: Float[Tensor, "D D D"]
) -> Callable[[ComponentGrid, Tensor], Tensor]:
    """Function that multiplies components by masks in real space: P_0 by the first, all others by the second."""

    def apply(grid: ComponentGrid, values: Tensor) -> Tensor:
        out = torch.zeros_like(values)
        used = (values != 0).flatten(0, -2).any(dim=0).tolist()  # one wait for a GPU, not one for each component
        for j, filled in enumerate(used):
            if filled:
                mask = (first if j == 0 else others).to(values.device)
                out[..., j] = grid.from_map(grid.to_map(values[..., j].contiguous()) * mask)
        return out

    return apply

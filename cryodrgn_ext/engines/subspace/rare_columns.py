"""Where rare states stand among the columns of the latents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryodrgn_ext.engines.subspace.rare_posterior import RareStates
from cryodrgn_ext.engines.subspace.subspace import Subspace


@dataclass(frozen=True)
class RareColumns:
    """Columns of K rare states.

    Attributes
    ----------
    column : tuple of int
        (K,) that of each; those beyond the subspace's own are added.
    scale : tuple of float
        (K,) its value where the state is certain, 0 where it is certainly not there: latents lie at distances in
        proportion to those of volumes.
    """

    column: tuple[int, ...]
    scale: tuple[float, ...]

    def latents(self, x: Float[Tensor, "n q"], probability: Float[Tensor, "n K"]) -> Float[Tensor, "n columns"]:
        """(n, q') latents of the subspace (n, q) with probabilities (n, K) put in."""
        added = sum(column >= x.shape[1] for column in self.column)
        z = torch.cat([x, x.new_zeros(len(x), added)], dim=1)
        for k, (column, scale) in enumerate(zip(self.column, self.scale, strict=True)):
            z[:, column] = scale * probability[:, k]
        return z.contiguous()

    def covariances(
        self, x_cov: Float[Tensor, "n q q"], probability: Float[Tensor, "n K"]
    ) -> Float[Tensor, "n columns columns"]:
        """(n, q', q') the same of covariances (n, q, q); states vary by themselves."""
        added = sum(column >= x_cov.shape[1] for column in self.column)
        z_cov = torch.nn.functional.pad(x_cov, (0, added, 0, added))
        for k, (column, scale) in enumerate(zip(self.column, self.scale, strict=True)):
            p = probability[:, k]
            z_cov[:, column, :] = z_cov[:, :, column] = 0
            z_cov[:, column, column] = scale**2 * p * (1 - p)
        return z_cov.contiguous()


def rare_columns(subspace: Subspace, states: RareStates) -> RareColumns:
    """Rare states take the place of components that carry nothing, the weakest first; where there is none, a new one.

    Parameters
    ----------
    subspace : Subspace
    states : RareStates
    """
    power = subspace.shared_power
    idle = [j for j in power.argsort(stable=True).tolist() if not bool(subspace.real[j])]
    if subspace.n_real == 0:
        idle = idle[:-1]  # volumes depend on one at least
    column = tuple(idle[: len(states)]) + tuple(
        subspace.zdim + k for k in range(max(0, len(states) - len(idle)))
    )  # fmt: skip
    largest = float(power.max().clamp_min(1e-300))
    return RareColumns(column, tuple((states.power(subspace.grid) / largest).sqrt().tolist()))

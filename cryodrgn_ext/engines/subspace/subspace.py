"""Components of a subspace at a band, and which of them count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cryodrgn_ext.engines.subspace.grid import ComponentGrid

LEAST_POWER = 1e-3  # of all components' power, of one that is called real
LEAST_SHARE = 1e-3  # of a component's power that counts
AGREEING = 0.3  # least correlation between half-sets of a component that is called real


@dataclass(frozen=True)
class Subspace:
    """Components at a band.

    Attributes
    ----------
    grid : ComponentGrid
    values : Tensor
        (V, 2, Qp) float32: P_0..P_q, real and imaginary parts.
    zdim : int
        q.
    power : Tensor
        (q,) float64: power of each component, the variance of volumes along it; in descending order.
    agreement : Tensor
        (q,) float64: correlation of each component between half-sets.
    informative : int
        The first so many components predict images of the other half-set.
    """

    grid: ComponentGrid
    values: Tensor
    zdim: int
    power: Tensor
    agreement: Tensor
    informative: int = 0

    @property
    def shared_power(self) -> Tensor:
        """(q,) power of each component that counts.

        That is the share that a half-set's agreement c stands for in both together, 2 c / (1 + c); the rest is noise.
        """
        agreement = self.agreement.clamp(0, 1)
        return self.power * (2 * agreement / (1 + agreement)).clamp_min(LEAST_SHARE)

    @property
    def scale(self) -> Tensor:
        """(q,) what latents of unit variance are multiplied by, to lie at distances in proportion to volumes."""
        power = self.shared_power
        return (power / power.max().clamp_min(1e-300)).sqrt()

    @property
    def real(self) -> Tensor:
        """(q,) bool: components that both half-sets show, or that predict images of the other half-set."""
        alike = (self.agreement > AGREEING) & (self.power > LEAST_POWER * self.power.sum())
        return alike | (torch.arange(len(self.power)) < self.informative)

    @property
    def n_real(self) -> int:
        """How many components both half-sets show."""
        return int(self.real.sum())

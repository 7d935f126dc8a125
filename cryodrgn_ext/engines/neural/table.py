"""Latents as a table: one mean and one spread per image, learned directly instead of through an encoder.

Each image appears once in a pass, so the table is updated sparsely: Adam with moments and a step count of its own for
every row (Kingma & Ba 2015, with the bias correction of the row's own count). An encoder shares what it learns
between images, a table does not; but a table has no poses to learn away, and no amortisation gap (Zhong 2022, 3.6.2
discusses the encoder; Cremer et al. 2018 the gap).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Integer
from torch import Tensor

RATE = 0.2  # latents are of order one and see one step per pass
DECAY = (0.8, 0.95)  # of the moments: tens of steps in all, not thousands
START_SPREAD = 0.3
START_SCATTER = 0.1


@dataclass
class LatentTable:
    """Moments of the posterior of each image, with the state of their optimiser.

    Attributes
    ----------
    moments : Tensor
        (N, 2 q) float32: means, then log variances.
    first, second : Tensor
        (N, 2 q) running means of gradient and squared gradient.
    count : Tensor
        (N,) float32 steps that each row has seen.
    """

    moments: Float32[Tensor, "N moments"]
    first: Float32[Tensor, "N moments"]
    second: Float32[Tensor, "N moments"]
    count: Float32[Tensor, " N"]

    @classmethod
    def start(cls, n: int, zdim: int, seed: int, z: Float[Tensor, "n q"] | None = None) -> LatentTable:
        """A table of ``n`` rows at latents ``z`` (n, q), or at small random ones that break the symmetry."""
        generator = torch.Generator().manual_seed(seed)
        mean = START_SCATTER * torch.randn(n, zdim, generator=generator) if z is None else z.float()
        spread = torch.full((n, zdim), 2.0 * torch.tensor(START_SPREAD).log().item())
        moments = torch.cat([mean, spread], dim=1)
        return cls(moments, torch.zeros_like(moments), torch.zeros_like(moments), torch.zeros(n))

    def shard(self, rows: range) -> LatentTable:
        """The table of some contiguous rows."""
        return LatentTable(*(tensor[rows.start : rows.stop].clone() for tensor in self.tensors().values()))

    def rows(self, indices: Integer[Tensor, " B"]) -> Float32[Tensor, "B moments"]:
        """Moments (B, 2 q) of some images, as a leaf that collects a gradient."""
        return self.moments[indices].requires_grad_()

    def update(self, indices: Integer[Tensor, " B"], gradient: Float[Tensor, "B moments"]) -> None:
        """One step of Adam for some rows (no row twice)."""
        count = self.count[indices] + 1
        first = DECAY[0] * self.first[indices] + (1 - DECAY[0]) * gradient
        second = DECAY[1] * self.second[indices] + (1 - DECAY[1]) * gradient.square()
        unbiased = first / (1 - DECAY[0] ** count)[:, None]
        scale = (second / (1 - DECAY[1] ** count)[:, None]).sqrt() + 1e-12
        self.moments[indices] -= RATE * unbiased / scale
        self.first[indices], self.second[indices], self.count[indices] = first, second, count

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint needs."""
        return {"moments": self.moments, "first": self.first, "second": self.second, "count": self.count}

"""Where in the box the volumes of the curved model may differ, learned from both half-sets together with these.

A region that is drawn where the first components stand out leaves out much of what moves: there is no level at which a
difference begins. Components are therefore held to that region widened by a half period of the band, and within it each
place counts by how reliable differences are there: the power of differences that both half-sets show, over the power
that each shows by itself (the Wiener filter of the place, as the prior of the shells is that of the frequency). What
the average lacks in the consensus counts in the same way: where density is weak, that is noise of the fine shells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float32
from scipy import ndimage
from torch import Tensor

from cryodrgn_ext.engines.held_out import SURE
from cryodrgn_ext.engines.subspace.decoder import restriction
from cryodrgn_ext.engines.subspace.grid import ComponentGrid
from cryodrgn_ext.engines.subspace.regions import widened

SMOOTHING = 0.25  # of the shortest period of the first band: what is finer is the noise of the powers
LEAST_SHARE = 1e-6  # of the box


@dataclass(frozen=True)
class HeldRegions:
    """Soft masks (D, D, D) of components.

    Attributes
    ----------
    particle : Tensor
        Of the consensus' correction.
    moving : Tensor
        Of differences.
    rare : Tensor
        Of what rare states add.
    reliability : Tensor
        Of differences in one half-set, 0 to 1; ones until it is measured.
    average : Tensor
        Of the consensus' correction in one half-set, likewise.
    smoothing : float
        Standard deviation in voxels, over which powers are compared.
    chance : float
        Reliability that chance hardly exceeds.
    """

    particle: Float32[Tensor, "D D D"]
    moving: Float32[Tensor, "D D D"]
    rare: Float32[Tensor, "D D D"]
    reliability: Float32[Tensor, "D D D"]
    average: Float32[Tensor, "D D D"]
    smoothing: float
    chance: float = 0.0

    @classmethod
    def about(
        cls, particle: Float32[Tensor, "D D D"], moving: Float32[Tensor, "D D D"], radius: int, *within: Tensor | None
    ) -> HeldRegions:
        """About a region that stands out at a band of ``radius`` cycles per box, within the user's masks."""
        wide = torch.maximum(moving, widened(moving, 0.5 * len(moving) / radius))
        for mask in within:
            wide = wide if mask is None else wide * mask
        unknown = torch.ones_like(moving)
        return cls(particle, wide, moving, unknown, unknown, SMOOTHING * len(moving) / radius)

    @property
    def whole(self) -> Float32[Tensor, "D D D"]:
        """Mask of the particle in all its states."""
        beyond = (self.reliability - self.chance).clamp_min(0) / max(1 - self.chance, LEAST_SHARE)
        return torch.maximum(self.particle, self.moving * beyond)

    def shares(self, n_features: int, columns: int) -> Float[Tensor, " Q"]:
        """(Q,) float64 fraction of the box that each component can fill."""
        masks = [self.whole * self.average, *[self.moving * self.reliability] * (n_features - 1)]
        masks += [self.rare] * (columns - n_features)
        return torch.stack([m.double().square().mean() for m in masks]).clamp_min(LEAST_SHARE)

    def hold(
        self, grid: ComponentGrid, values: Float[Tensor, "V 2 Qp"], n_features: int, together: bool = False
    ) -> Float[Tensor, "V 2 Qp"]:
        """Components times their masks; those of both half-sets ``together`` are as much more reliable."""
        reliability, average = self.reliability, self.average
        if together:
            reliability, average = _of_both(reliability), _of_both(average)
        out = restriction(self.whole * average, self.moving * reliability)(grid, values[..., :n_features])
        rest = restriction(self.rare, self.rare)(grid, values[..., n_features:])
        return torch.cat([out, rest], dim=-1)

    def measured(
        self, grid: ComponentGrid, first: Float[Tensor, "V 2 Qp"], second: Float[Tensor, "V 2 Qp"], n_features: int
    ) -> HeldRegions:
        """The same with the reliability that the half-sets' components (V, 2, Qp) show."""

        def found(columns: range, mask: Tensor) -> Tensor:
            shared, own = torch.zeros_like(mask), torch.zeros_like(mask)
            for j in columns:
                a, b = (grid.to_map(half[..., j].contiguous()).cpu() * mask for half in (first, second))
                shared += a * b
                own += 0.5 * (a.square() + b.square())
            smooth = [torch.from_numpy(ndimage.gaussian_filter(p.numpy(), self.smoothing)) for p in (shared, own)]
            return torch.where(smooth[1] > 0, smooth[0] / smooth[1].clamp_min(1e-30), 0.0).clamp_max(1)

        average, differences = found(range(1), self.whole), found(range(1, n_features), self.moving)
        # Where half-sets share nothing, what they seem to share is as often below nothing as above.
        below = differences[differences < 0]
        chance = min(SURE * float(below.square().mean().sqrt()), 1.0) if len(below) else 0.0
        return replace(self, reliability=differences.clamp_min(0), average=average.clamp_min(0), chance=chance)


def _of_both(reliability: Tensor) -> Tensor:
    """Reliability in both half-sets together of what is so reliable in each."""
    return 2 * reliability / (1 + reliability)

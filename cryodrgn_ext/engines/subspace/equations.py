"""Normal equations of the components over both half-sets, and what follows from them: priors and solutions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Float64, Int64, Integer, Real
from torch import Tensor

from cryodrgn_ext.engines.distributed import current
from cryodrgn_ext.engines.subspace.band import Band
from cryodrgn_ext.engines.subspace.grid import ComponentGrid, padded
from cryodrgn_ext.engines.subspace.torch_form import Chunk, solve

FLOOR = 0.05  # least diagonal of a voxel's equations, as a fraction of its shell's mean
WEAKEST_SIGNAL = 1e-3  # least signal power in a shell, in units of its noise
LOW_SHELLS = 2  # next to the origin there are too few voxels to compare half-sets


def slab_bounds(
    grid: ComponentGrid, planes: Float[Tensor, "B 2 3"], kxy: Real[Tensor, "M 2"], count: int
) -> Int64[Tensor, " slabs"]:
    """Planes z (count + 1,) int64 between which about equally many coefficients fall.

    Parameters
    ----------
    grid : ComponentGrid
    planes : Tensor
        (B, 2, 3) central sections of some images.
    kxy : Tensor
        (M, 2) coefficients.
    count : int
        Number of slabs.
    """
    step, stride = max(1, len(kxy) // 64), max(1, len(planes) // 256)
    points = (kxy[::step, :, None] * planes[::stride, None]).sum(2)
    z = torch.where(points[..., 0] < 0, -points[..., 2], points[..., 2]).flatten()
    plane = (z.floor() + grid.half).clamp(0, 2 * grid.half).long()
    total = torch.bincount(plane, minlength=2 * grid.half + 1).double().cumsum(0)
    wanted = total[-1] * torch.arange(1, count, dtype=torch.float64) / count
    inner = torch.searchsorted(total, wanted) + 1
    ends = torch.tensor([2 * grid.half + 1])
    return torch.cat([torch.zeros(1, dtype=torch.long), inner.clamp(0, int(ends)), ends]).long()


@dataclass
class Equations:
    """Sums over images of the equations that the components obey, at their present values.

    Attributes
    ----------
    band : Band
    n_columns : int
        Components Q, the first of which corrects the consensus.
    weight : Tensor
        (2, V, Lp) float32, of each half-set.
    right : Tensor
        (2, V, 2, Qp) float32.
    """

    band: Band
    n_columns: int
    weight: Float32[Tensor, "2 V L"]
    right: Float32[Tensor, "2 V 2 Qp"]
    _bounds: Tensor | None = None

    @classmethod
    def empty(cls, band: Band, n_columns: int) -> Equations:
        """No images yet."""
        length = padded(n_columns * (n_columns + 1) // 2)
        voxels, device = band.grid.n_voxels, band.device
        return cls(
            band,
            n_columns,
            torch.zeros(2, voxels, length, device=device),
            torch.zeros(2, voxels, 2, padded(n_columns), device=device),
        )

    def add(
        self,
        components: Float32[Tensor, "V 2 Qp"],
        chunk: Chunk,
        particle_scale: Float[Tensor, " B"],
        half_set: Integer[Tensor, " B"],
        moments: Float32[Tensor, "B Q Q"],
    ) -> None:
        """Add the images of a chunk, with their scales (B,), half-sets (B,) 0 or 1, and moments (B, Q, Q)."""
        if self._bounds is None:
            self._bounds = slab_bounds(
                self.band.grid, chunk.planes.cpu(), self.band.operators.kxy, torch.get_num_threads()
            )
        self.band.operators.accumulate(
            components, chunk, particle_scale, half_set, moments, self.weight, self.right, self._bounds
        )

    def complete(self) -> None:
        """Sum over processes, and add Friedel partners; call once, when all images are in."""
        current().sum(self.weight, self.right)
        for half in (0, 1):
            self.band.grid.add_partners(self.weight[half], self.right[half])

    def diagonal(self) -> Float64[Tensor, "S Q"]:
        """(S, Q) float64: mean diagonal per shell and component, over both half-sets."""
        q = self.n_columns
        place = torch.tensor([j * q - j * (j - 1) // 2 for j in range(q)], device=self.weight.device)
        return self.band.grid.shell_mean(self.weight[0][:, place] + self.weight[1][:, place]).cpu()

    def solve(
        self, components: Float32[Tensor, "V 2 Qp"], precision: Float64[Tensor, "S Q"], half: int | None = None
    ) -> Float32[Tensor, "V 2 Qp"]:
        """Components (V, 2, Qp) that solve the equations, with a prior precision (S, Q).

        Of one half-set (0 or 1), or of both together.
        """
        share = 1.0 if half is None else 0.5
        weight = self.weight[0] + self.weight[1] if half is None else self.weight[half]
        right = self.right[0] + self.right[1] if half is None else self.right[half]
        floor = FLOOR * share * self.diagonal() + 1e-20
        return solve(weight, right, components, precision.double(), floor, self.band.grid.shell)

    def halves(
        self, components: Float32[Tensor, "V 2 Qp"]
    ) -> tuple[Float32[Tensor, "V 2 Qp"], Float32[Tensor, "V 2 Qp"]]:
        """Unregularised solutions of both half-sets."""
        none = torch.zeros(self.band.radius + 1, self.n_columns, dtype=torch.float64)
        return self.solve(components, none, 0), self.solve(components, none, 1)

    def signal(self, half1: Float32[Tensor, "V 2 Qp"], half2: Float32[Tensor, "V 2 Qp"]) -> Float64[Tensor, "S Q"]:
        """Power (S, Q) float64 that two solutions have in common per shell, smoothed over shells; may be negative."""
        shared = self.band.grid.shell_mean((half1 * half2).sum(1)).cpu()[:, : self.n_columns]
        smooth = shared.clone()
        if len(shared) > 2:
            smooth[1:-1] = 0.25 * shared[:-2] + 0.5 * shared[1:-1] + 0.25 * shared[2:]
        return smooth

    def precision(self, signal: Float64[Tensor, "S Q"], share: Tensor | float = 1.0) -> Float64[Tensor, "S Q"]:
        """Prior precision (S, Q): ``share`` over the signal's power, at most what next to no signal gives.

        Parameters
        ----------
        signal : Tensor
            (S, Q) power per voxel.
        share : Tensor or float
            Fraction of the box that a component can fill: noise outside is cut away, so that less of it counts.
        """
        noise = 1.0 / self.diagonal().clamp_min(1e-20)
        power = torch.maximum(signal, WEAKEST_SIGNAL * noise)
        power[:LOW_SHELLS] = torch.maximum(power[:LOW_SHELLS], 10 * noise[:LOW_SHELLS])
        return share / power

"""How much better components explain images that they were not learned from: what bands and numbers are chosen by.

Images of one half-set are compared with the components that the other half-set learned, filtered per component and
shell by what both have in common. The gain of an image is its log likelihood with the latents integrated out, less that
of the average structure. Maps that fit noise predict nothing and pay for the latents that they need.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from cryodrgn_ext.engines.distributed import current
from cryodrgn_ext.engines.held_out import SURE
from cryodrgn_ext.engines.subspace.band import Band
from cryodrgn_ext.engines.subspace.halves import Halves
from cryodrgn_ext.engines.subspace.posterior import infer

MOST_IMAGES = 2000


@dataclass(frozen=True)
class Gains:
    """Gains of some images.

    Attributes
    ----------
    values : Tensor
        (n, q + 1) float64 nats: with the first 0 .. q components.
    by_scales : Tensor, optional
        (n, q + 1) float64 nats: what particle scales add to each of these.
    """

    values: Float64[Tensor, "n c"]
    by_scales: Float64[Tensor, "n c"] | None = None

    @property
    def mean(self) -> Tensor:
        """(q + 1,) over the images."""
        return self.values.mean(0)

    @property
    def informative(self) -> int:
        """Least number of components that no greater number beats by more than chance."""
        best = int(self.mean.argmax())
        behind = self.values[:, best : best + 1] - self.values
        error = behind.std(0, correction=0) / len(behind) ** 0.5
        return int((behind.mean(0) <= SURE * error).nonzero()[0])

    def exceed(self, other: Gains) -> bool:
        """Whether images gain more, beyond chance, than others do there."""
        own, theirs = (gains.values[:, int(gains.mean.argmax())] for gains in (self, other))
        error = math.sqrt(sum(float(v.var(correction=0)) / len(v) for v in (own, theirs)))
        return float(own.mean() - theirs.mean()) > SURE * error

    @property
    def scales_differ(self) -> bool:
        """Whether images of the other half-set gain by particle scales, beyond chance."""
        if self.by_scales is None:
            return False
        more = self.by_scales[:, int(self.mean.argmax())]
        return bool(more.mean() > SURE * more.std(correction=0) / len(more) ** 0.5)

    def beats(self, other: Gains) -> bool:
        """Whether the same images gain more here than there, beyond chance."""
        better = self.values[:, int(self.mean.argmax())] - other.values[:, int(other.mean.argmax())]
        return bool(better.mean() > SURE * better.std(correction=0) / len(better) ** 0.5)


def filtered(band: Band, halves: Halves, signal: Tensor) -> tuple[Tensor, Tensor]:
    """Components (V, 2, Qp) of each half-set, times what of their power is shared.

    Parameters
    ----------
    band : Band
    halves : Halves
    signal : Tensor
        (S, Q) float64 power per voxel that the halves have in common.
    """
    count = signal.shape[1]
    grid = band.grid
    own = 0.5 * sum(grid.shell_mean(half.square().sum(1)).cpu()[:, :count] for half in (halves.first, halves.second))
    share = (signal / own.clamp_min(1e-30)).clamp(0, 1)  # type: ignore[union-attr]
    gain = torch.zeros(len(share), halves.first.shape[2])
    gain[:, :count] = share.float()
    gain = gain[grid.shell].to(halves.first.device)[:, None]
    return halves.first * gain, halves.second * gain


def component_gains(band: Band, halves: Halves, signal: Tensor, scale_spread: float) -> Gains:
    """Gains of up to :data:`MOST_IMAGES` images, spread evenly, by components of the half-set that they are not in."""
    maps = filtered(band, halves, signal)
    columns = signal.shape[1]
    images, workers = band.images, current()
    chosen = torch.linspace(0, images.n - 1, min(images.n, MOST_IMAGES)).long().unique()
    spreads = [0.0, scale_spread] if scale_spread > 0 else [0.0]
    found = torch.zeros(len(spreads), len(chosen), columns, dtype=torch.float64)
    shard = workers.shard(len(chosen))
    start = shard.start
    for chunk in band.chunks(chosen[shard.start : shard.stop]):
        first = (images.half_set[chunk.rows] == 1).to(band.device)
        inner1, cross1 = band.operators.gram(maps[1], columns, chunk)
        inner2, cross2 = band.operators.gram(maps[0], columns, chunk)
        inner = torch.where(first[:, None, None], inner1, inner2)
        cross = torch.where(first[:, None], cross1, cross2)
        for c in range(columns):
            for number, spread in enumerate(spreads):
                evidence = infer(inner[:, : c + 1, : c + 1], cross[:, : c + 1], spread).evidence
                found[number, start : start + len(chunk.rows), c] = evidence.cpu()
        start += len(chunk.rows)
    workers.sum(found)
    gains = found[-1] - found[-1, :, :1]
    return Gains(gains, found[1] - found[0] if scale_spread > 0 else None)

"""Motions that smooth deformations of the consensus make, for images that are too few or too noisy for free components.

A component of the whole particle has hundreds of numbers, deformations a few dozen: in six hundred noisy images these
are found where those are not (:mod:`.anatomy`). Of many motions only higher frequencies tell, so that every band is
looked at. Each half-set's images meet what the other half-set learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64, Integer
from torch import Tensor

from cryodrgn_ext.engines.distributed import current
from cryodrgn_ext.engines.subspace.amplitudes import MOST_IMAGES, Motions, Products
from cryodrgn_ext.engines.subspace.anatomy import Anatomy, Deformations
from cryodrgn_ext.engines.subspace.band import BAND_GROWTH, Band
from cryodrgn_ext.engines.subspace.evidence import Gains
from cryodrgn_ext.engines.subspace.posterior import infer
from cryodrgn_ext.progress import Monitor

MOST_MOTIONS = 8


@dataclass(frozen=True)
class DeformedSubspace:
    """Motions at a band.

    Attributes
    ----------
    radius : int
        Of the band, in cycles per box.
    both : Motions
        Of all images.
    halves : tuple of Motions
        That each half-set learned by itself, along the axes of both.
    gains : Gains
        Of images by the motions that the other half-set learned.
    """

    radius: int
    both: Motions
    halves: tuple[Motions, Motions]
    gains: Gains

    @property
    def agreement(self) -> Float64[Tensor, " q"]:
        """(q,) correlation of each motion between the half-sets."""
        return self.halves[0].agreement(self.halves[1])

    def tensors(self) -> dict[str, Tensor]:
        """For checkpoints."""
        out = {"deformed_gains": self.gains.values}
        for name, motions in zip(("both", "half1", "half2"), (self.both, *self.halves), strict=True):
            out |= {f"deformed_{name}_{part}": getattr(motions, part) for part in Motions.__dataclass_fields__}
        return out

    @classmethod
    def from_tensors(cls, radius: int, tensors: Mapping[str, Tensor]) -> DeformedSubspace:
        """Read what :meth:`tensors` made."""
        both, first, second = (
            Motions(*(tensors[f"deformed_{name}_{part}"] for part in Motions.__dataclass_fields__))
            for name in ("both", "half1", "half2")
        )
        return cls(radius, both, (first, second), Gains(tensors["deformed_gains"]))


@dataclass(frozen=True)
class MotionLatents:
    """Latents of n images by the motions of the half-set that they are not in.

    Attributes
    ----------
    mean, covariance : Tensor
        (n, q), (n, q, q) float64.
    gain : Tensor
        (n, 2) float64 log likelihood: above the average structure's, and this above nothing.
    """

    mean: Float64[Tensor, "n q"]
    covariance: Float64[Tensor, "n q q"]
    gain: Float64[Tensor, "n 2"]

    def scaled(self, factor: Float64[Tensor, " q"]) -> MotionLatents:
        """Times factors (q,)."""
        return MotionLatents(self.mean * factor, self.covariance * factor[:, None] * factor, self.gain)


def half_sets(half_set: Integer[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """0 or 1 for each image; every other one where the file has a single half-set."""
    second = half_set.cpu() == 2
    if bool(second.all()) or not bool(second.any()):
        second = torch.arange(len(second)) % 2 == 1
    return second.long()


def bands_to(first: int, limit: int) -> list[int]:
    """Radii from ``first`` to ``limit``."""
    radii = [min(first, limit)]
    while radii[-1] < limit:
        radii.append(min(limit, max(radii[-1] + 1, round(BAND_GROWTH * radii[-1]))))
    return radii


def search(
    make_band: Callable[[int], Band], radii: list[int], half: Int64[Tensor, " N"], anatomy: Anatomy, most: int,
    spread: float, monitor: Monitor,
) -> list[DeformedSubspace]:  # fmt: skip
    """Motions at each band by which images gain anything beyond chance.

    Parameters
    ----------
    make_band : callable
        radius -> Band.
    radii : list of int
    half : Tensor
        (N,) 0 or 1, half-set of every image.
    anatomy : Anatomy
    most : int
        Motions, at most.
    spread : float
        Of the particle scale, see :func:`.posterior.infer`.
    monitor : Monitor
    """
    tracked = monitor.track(radii, "Deformations of the consensus", len(radii))
    found = (_at(make_band(radius), half, anatomy, min(most, MOST_MOTIONS), spread) for radius in tracked)
    return [motions for motions in found if motions is not None]


def _at(band: Band, half: Int64[Tensor, " N"], anatomy: Anatomy, most: int, spread: float) -> DeformedSubspace | None:
    deformations = anatomy.deformations(band.grid).on(band.device)
    if deformations.smooth == 0:
        return None
    n = len(half)
    chosen = torch.linspace(0, n - 1, min(n, MOST_IMAGES)).long().unique()
    shard = current().shard(len(chosen))
    own = half[chosen[shard.start : shard.stop]]
    products = Products.of(band, deformations, chosen[shard.start : shard.stop])
    learned = [Motions.learn(products[own == side], most, spread) for side in (0, 1)]
    values = torch.zeros(len(chosen), most + 1, dtype=torch.float64)
    for side in (0, 1):
        rows = (own == 1 - side).nonzero()[:, 0]
        seen = products[rows]
        plain = learned[side].first(0).evidence(seen, spread)
        for count in range(1, most + 1):
            values[rows + shard.start, count] = learned[side].first(count).evidence(seen, spread) - plain
    current().sum(values)
    gains = Gains(values)
    if gains.informative == 0:
        return None
    both = Motions.learn(products, gains.informative, spread).along_axes()
    first, second = (half_.first(gains.informative).turned_to(both) for half_ in learned)
    return DeformedSubspace(band.radius, both, (first, second), gains)


def latents(
    found: DeformedSubspace, band: Band, deformations: Deformations, half: Int64[Tensor, " n"],
    rows: Int64[Tensor, " n"], spread: float,
) -> MotionLatents:  # fmt: skip
    """Latents of the images ``rows`` (n,), which are in half-sets ``half`` (n,) 0 or 1."""
    q = found.both.loadings.shape[1]
    parts = [MotionLatents(torch.zeros(0, q).double(), torch.zeros(0, q, q).double(), torch.zeros(0, 2).double())]
    models = [Motions.components(deformations, motions.columns) for motions in found.halves]
    columns = found.both.columns.shape[1]
    start = 0
    for chunk in band.chunks(rows):
        second = (half[start : start + len(chunk.rows)] == 1).to(band.device)
        start += len(chunk.rows)
        (inner2, cross2), (inner1, cross1) = (band.operators.gram(m, columns, chunk) for m in models)
        inner = torch.where(second[:, None, None], inner2, inner1).cpu()
        cross = torch.where(second[:, None], cross2, cross1).cpu()
        plain = torch.tensor([0, *range(q + 1, columns)])
        posterior = infer(inner, cross, spread)
        average = infer(inner[:, plain][:, :, plain], cross[:, plain], spread).evidence
        gain = torch.stack([posterior.evidence - average, average], 1)
        parts.append(MotionLatents(posterior.mean[:, :q], posterior.covariance[:, :q, :q], gain))
    return MotionLatents(*(torch.cat([getattr(p, name) for p in parts]) for name in MotionLatents.__dataclass_fields__))

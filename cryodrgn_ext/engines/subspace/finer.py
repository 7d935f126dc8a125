"""Other functions of the latents than a curve began with, where single images tell of them.

What turns far is seen at high frequencies as many unlike volumes: a place at a distance r from the axis needs 2 r k
harmonics of a full turn on either side up to a frequency k, and fifteen functions blur it. Whether they do they tell
themselves, as smooth ones come first: where the last quarter of them still tells images as much as is worth a pass,
there is more behind. Then twice as many begin with the volumes that there are, of a shorter kernel if that one has no
more, on nodes that cover the latents as these have become; they stay where images of each half-set gain by those of the
other.

Before, in the first band, as many functions with the straight ones of every component in front are tried, from the
latents of the beginning, where the smooth ones have left out one of these: by the same rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cryodrgn_ext.engines.distributed import current
from cryodrgn_ext.engines.held_out import SURE
from cryodrgn_ext.engines.subspace.curved import LEAST_RISE, MOST_PASSES, CurvedFit
from cryodrgn_ext.engines.subspace.features import Features, Nodes
from cryodrgn_ext.engines.subspace.grid import padded

MOST_FEATURES = 63
LEAST_LOST = 0.05  # of a straight function: what follows it closer than that is not worth a trial
LAST = 4  # part of the features that tells whether more would
SHORTEN = 0.8  # steps in which a kernel's length is sought
SHORTEST = 0.1  # of the length before
MOST_SIGNAL = 100.0  # nats per coefficient: beyond, errors of interpolation stand out from the noise, and are followed
BYTES = 4


@dataclass(frozen=True)
class FinerFeatures:
    """Straightens or doubles a curve's features; to be called where its band has nothing more to tell by these.

    Attributes
    ----------
    images : int
        Of all processes.
    most_nodes : int
    seed : int
    memory_bytes : float
        That the equations of both half-sets may take.
    limit : int
        Radius of the last band, at which they take most.
    """

    images: int
    most_nodes: int
    seed: int
    memory_bytes: float
    limit: int

    def __call__(self, curve: CurvedFit) -> bool:
        """Try; whether the curve has other features now. Otherwise it is what it was."""
        return self._straightened(curve) or self._doubled(curve)

    def _straightened(self, curve: CurvedFit) -> bool:
        former, is_first = curve.features, not len(curve.first_gains)
        assert isinstance(former, Features)
        if not (is_first and curve.held_out().wins) or former.straight or former.lost() < LEAST_LOST:
            return False
        relative, count = former.length / former.spread, former.count

        def renew() -> bool:
            for half, (mean, covariance) in zip(curve.halves, curve.begun, strict=True):
                half.mean, half.covariance = mean.clone(), covariance.clone()
            curve.take(Features.build(self._nodes(curve, relative), relative, count, straight=True))
            curve.values = [torch.zeros_like(values) for values in curve.values]
            curve.volumes = torch.zeros_like(curve.volumes)
            curve.alternate("Volumes of straight functions", begin=True)
            return True

        return self._tried(curve, renew)

    def _doubled(self, curve: CurvedFit) -> bool:
        count = 2 * curve.n_features - 1
        columns = count + 1 + curve.columns - curve.n_features
        voxels = curve.bands[0].grid.n_voxels * (self.limit / curve.radius) ** 3
        fits = count <= MOST_FEATURES and equation_bytes(columns, voxels) <= self.memory_bytes
        if not (fits and self._worth_trying(curve)):
            return False
        return self._tried(curve, lambda: self._renew(curve, count))

    def _tried(self, curve: CurvedFit, renew: Callable[[], bool]) -> bool:
        kept, gains = curve.snapshot(), curve.gains()
        if renew():
            curve.solved = curve.inferred = 0
            while curve.inferred < 2 or (curve.inferred < MOST_PASSES and curve.rose()):
                curve.advance(f"Latents and volumes, {curve.features.count} functions")
            more = curve.gains() - gains
            if bool(more.mean() > max(SURE * more.std(correction=0) / len(more) ** 0.5, LEAST_RISE * gains.mean())):
                return True
        curve.go_back(*kept)
        return False

    def _worth_trying(self, curve: CurvedFit) -> bool:
        told, found = curve.told[1 : curve.n_features], curve.held_out()
        last = told[len(told) - math.ceil(len(told) / LAST) :]
        real = found.wins and found.average + found.gain < MOST_SIGNAL * curve.bands[0].count
        return real and len(told) >= LAST and float(last.sum()) > LEAST_RISE * float(told.sum()) > 0

    def _renew(self, curve: CurvedFit, count: int) -> bool:
        """Put ``count`` features in the place of those that there are; whether there are more now."""
        former = curve.features
        assert isinstance(former, Features)
        relative = former.length / former.spread
        nodes = self._nodes(curve, relative)
        features = Features.build(nodes, relative, count, former.straight)
        while features.count < count and relative > SHORTEST * former.length / former.spread:
            relative *= SHORTEN
            features = Features.build(nodes, relative, count, former.straight)
        if features.count <= former.count:
            return False
        self._put(curve, features)
        return True

    def _nodes(self, curve: CurvedFit, relative: float) -> Nodes:
        x = current().gather_rows(curve.in_order("mean"), self.images)
        return Nodes.cover(x, relative, min(self.most_nodes, self.images), self.seed)

    def _put(self, curve: CurvedFit, features: Features) -> None:
        former = curve.features
        assert isinstance(former, Features)
        values, rare = [*curve.values, curve.volumes], curve.n_features
        carried = _carried(former, features)
        curve.take(features)
        curve.values = [_on(v, carried, rare, curve.columns) for v in values[:2]]
        curve.volumes = _on(values[2], carried, rare, curve.columns)


def equation_bytes(columns: int, voxels: float) -> float:
    """Bytes that the equations of both half-sets take, at a number of voxels."""
    return 2 * BYTES * (padded(columns * (columns + 1) // 2) + 2 * padded(columns)) * voxels


def _carried(former: Features, features: Features) -> Tensor:
    """(m + 1, m' + 1) what 1 and the former features are of the new ones, least squares over the particles."""
    root = features.nodes.weight.sqrt()[:, None]
    before = torch.cat([torch.ones_like(root), former(features.nodes.centres)], 1)
    found: Tensor = torch.linalg.lstsq(root * features.at_nodes(), root * before).solution
    return found.T


def _on(values: Tensor, carried: Tensor, rare: int, columns: int) -> Tensor:
    """Components (V, 2, Qp) of the former features as those of the new ones; those of rare states stay."""
    out = torch.zeros(*values.shape[:2], padded(columns), device=values.device)
    count = carried.shape[1]
    out[..., :count] = (values[..., :rare].double() @ carried.to(values.device)).float()
    out[..., count:columns] = values[..., rare : rare + columns - count]
    return out

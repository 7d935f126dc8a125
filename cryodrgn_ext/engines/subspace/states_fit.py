"""Discrete states as the other form of the curved model: a volume of its own for each of some states.

Smooth functions of a few latents cannot be seventeen unrelated structures. Once the curve is learned, the places where
its prior has become sharp are taken as states. Posteriors over states and volumes of states follow in turn as those of
the curve do, each half-set's from the volumes and the prior of the other; the prior is sharpened by one step in each
pass, so that states share out their images before those that nobody needs are given up. States that images of the
other half-set do not miss are then put where a large one may be two, and stay where images gain by that. All of this is
done at the band of the linear components, where a pass is cheap. Where images are explained no better there than by the
curve, the curve stays.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float64, Int64
from sklearn.cluster import KMeans
from torch import Tensor

from cryodrgn_ext.engines.distributed import current
from cryodrgn_ext.engines.held_out import SURE
from cryodrgn_ext.engines.subspace.curved import LEAST_RISE, MOST_PASSES, CurvedFit, HalfLatents
from cryodrgn_ext.engines.subspace.features import Nodes
from cryodrgn_ext.engines.subspace.states import States, places
from cryodrgn_ext.engines.subspace.torch_form import Chunk

FEWEST = 3  # states that are no straight line
IMAGES_PER_STATE = 40  # fewer tell no volume from the average
ROUNDS = 3  # of dividing large states, at most
PASSES = 4  # in each
STARTS = 10  # of k-means
LEAST_IDLE = 1 / 8  # of the states: fewer are not worth the passes
APART = 1.5  # by which the halves of a divided state differ more than chance has made them
RANDOM_BLOCK = 4096  # rows that one random generator starts


def starting_nodes(centres: Float64[Tensor, "K d"], share: Float64[Tensor, " K"], count: int, seed: int) -> Nodes:
    """Places of at most ``count`` states: k-means of the nodes (K, d) of a curve by their shares (K,)."""
    kept = (share > 1e-6 * share.max()).nonzero()[:, 0]
    count = min(count, len(kept))
    points, weight = centres[kept], share[kept]
    label = KMeans(count, n_init=STARTS, random_state=seed).fit_predict(points.numpy(), sample_weight=weight.numpy())
    member = torch.nn.functional.one_hot(torch.from_numpy(label).long(), count).double() * weight[:, None]
    size = member.sum(0)
    member, size = member[:, size > 0], size[size > 0]
    return Nodes((member.T @ points) / size[:, None], size / size.sum())


class StatesFit(CurvedFit):
    """The alternation with states.

    Parameters
    ----------
    curve : CurvedFit
        Learned; its latents begin those of the states.
    count : int
        Number of states.
    dimensions : int
        Of latent space.
    seed : int
    """

    share_steps = 2  # of which the second shows whether the first has gained anything

    def __init__(self, curve: CurvedFit, count: int, dimensions: int, seed: int) -> None:
        states = States.at(starting_nodes(curve.cells.centres, curve.share, count, seed))
        halves = [
            HalfLatents(h.rows, h.mean, h.covariance, h.scale.clone(), h.rare, torch.zeros_like(h.gain))
            for h in curve.halves
        ]
        super().__init__(
            states, halves, curve.make_bands, curve.locals, curve.regions, curve.scale_spread, curve.monitor
        )
        self.strength, self.begun = curve.strength, []  # states are not begun again
        self.states, self.dimensions, self.seed = states, dimensions, seed
        self.probability = [torch.zeros(len(h.rows), len(states.projection)) for h in halves]
        self.divided: set[int] = set()
        self.dividing: tuple[Tensor, Tensor] | None = None

    @property
    def located(self) -> States:
        """The states where their latents are, with their shares."""
        return self.states.moved(self.cells.centres, self.share)

    def beats(self, gains: Float64[Tensor, " N"]) -> bool:
        """Whether images gain more by the states than ``gains`` (N,), beyond chance and worth the passes."""
        more = self.gains() - gains
        return bool(more.mean() > max(SURE * more.std(correction=0) / len(more) ** 0.5, LEAST_RISE * gains.mean()))

    def try_at(self, radius: int, gains: Float64[Tensor, " N"]) -> bool:
        """Learn states at a band; whether images gain more by them than by another model there (N,).

        It ends early where even as large a rise as that of the last pass would not do.
        """
        self.widen(radius)
        self.alternate("States", begin=True)
        wanted, former = (1 + LEAST_RISE) * float(gains.mean()), float("nan")
        for _ in range(PASSES):
            self.alternate("States")
            present = float(self.gains().mean())
            if present + (present - former) < wanted:  # never after the first pass
                return False
            former = present
        return self.beats(gains)

    def go_on(self, radii: list[int]) -> None:
        """Divide states at the present band, then alternate at further ones."""
        for number in range(ROUNDS):
            if not self._divide(number):
                break
        for radius in (r for r in radii if r > self.radius):
            self.widen(radius)
            while self.inferred < 2 or (self.inferred < MOST_PASSES and self.rose()):
                self.advance("States")

    def alternate(self, label: str, begin: bool = False) -> None:
        """See :meth:`CurvedFit.alternate`; states lie where their volumes are."""
        if not begin:
            self.cells.centres = places(self.states, self.share, self.volumes, self.bands[0].grid, self.dimensions)
            for half in self.halves:
                n, d = len(half.rows), self.dimensions
                half.mean, half.covariance = torch.zeros(n, d), torch.zeros(n, d, d)
        super().alternate(label, begin)

    def _infer(self, half: int, chunk: Chunk, here: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        moments, node, logit, squares = super()._infer(half, chunk, here)
        probability = torch.softmax(logit.double() + self.shares[1 - half].log(), dim=1)
        self.probability[half][here] = probability.float()
        if self.dividing is not None:
            probability = self._divided(probability, self.halves[half].rows[here])
            moments = (probability.float() @ self.outer).view(moments.shape)
        return moments, node, logit, squares

    # Dividing states ------------------------------------------------------------------------------------------------

    def _missed_by_nobody(self) -> Int64[Tensor, " S"]:
        """States that may go to the one nearest to each, as far as images of the other half-set tell.

        With b's share given to a, the likelihood of an image is 1 - p_b + p_a s_b / s_a times what it was.
        """
        k = len(self.states.projection)
        sums = torch.zeros(3, k, k, dtype=torch.float64)
        for half in (0, 1):
            share, probability = self.shares[1 - half], self.probability[half].double()
            for part in probability.split(RANDOM_BLOCK):
                for b in range(k):
                    ratio = 1 - part[:, b : b + 1] + part * (share[b] / share)
                    loss = -ratio.clamp_min(1e-12).log()
                    sums[:, b] += torch.stack([torch.ones(k).double() * len(part), loss.sum(0), loss.square().sum(0)])
        current().sum(sums)
        n, loss, square = sums
        mean = loss / n
        error = ((square / n - mean.square()).clamp_min(0) / n).sqrt()
        mean.fill_diagonal_(float("inf"))
        least, nearest = mean.min(1)
        idle = (least <= SURE * error.gather(1, nearest[:, None])[:, 0]).nonzero()[:, 0]
        # Of two that are alike one is needed.
        return torch.tensor([b for b in idle.tolist() if not (int(nearest[b]) in idle and nearest[b] < b)]).long()

    def _divided(self, probability: Float64[Tensor, "b K"], rows: Int64[Tensor, " b"]) -> Float64[Tensor, "b K"]:
        """Give idle states half of the images of others, at random; what idle ones had goes to all."""
        assert self.dividing is not None
        idle, large = self.dividing
        coin = torch.empty(len(rows), len(idle))
        block_of = torch.div(rows, RANDOM_BLOCK, rounding_mode="floor")
        for block in block_of.unique().tolist():
            generator = torch.Generator().manual_seed(self.seed + 1_000_003 * (block + 1) + self.inferred)
            numbers = torch.rand(RANDOM_BLOCK, len(idle), generator=generator)
            members = block_of == block
            coin[members] = numbers[rows[members] - block * RANDOM_BLOCK]
        out = probability.clone()
        out[:, idle] = 0
        out[:, idle] = torch.where(coin < 0.5, out[:, large], 0.0)
        out[:, large] -= out[:, idle]
        return out / out.sum(1, keepdim=True).clamp_min(1e-300)

    def _divide(self, number: int) -> bool:
        """Put states that nobody misses in the place of halves of large ones; whether images gain by that."""
        idle = self._missed_by_nobody()
        order = [k for k in self.share.argsort(descending=True).tolist() if k not in idle and k not in self.divided]
        count = min(len(idle), len(order))
        if count < max(1, LEAST_IDLE * len(self.states.projection)):
            return False
        idle, large = idle[self.share[idle].argsort()][:count], torch.tensor(order[:count])
        self.divided |= set(large.tolist())
        kept, gains, shares = self.snapshot(), self.gains(), self.shares
        self.dividing = idle, large
        self.alternate("Dividing states")
        self.dividing = None
        for half in (0, 1):
            share = shares[half].clone()
            share[large] *= 0.5
            share[idle] = share[large]
            self.shares[half] = share / share.sum()
        # Both half-sets begin with the same halves: those that each would find by itself are others.
        self.volumes = self._pulled_apart(idle, large)
        self.values = [self.volumes, self.volumes.clone()]
        self.solved = 0
        for _ in range(PASSES):
            self.alternate(f"States divided, {number + 1}")
        more = self.gains() - gains
        if bool(more.mean() > SURE * more.std(correction=0) / len(more) ** 0.5):
            return True
        self.go_back(*kept)
        return False

    def snapshot(self) -> tuple[dict[str, Any], list[HalfLatents]]:
        """See :meth:`CurvedFit.snapshot`."""
        own, halves = super().snapshot()
        probability = [probability.clone() for probability in self.probability]
        return {**own, "probability": probability, "centres": self.cells.centres}, halves

    def go_back(self, own: dict[str, Any], halves: list[HalfLatents]) -> None:
        """To a snapshot."""
        self.cells.centres = own["centres"]
        super().go_back({name: value for name, value in own.items() if name != "centres"}, halves)

    def _pulled_apart(self, idle: Tensor, large: Tensor) -> Tensor:
        """Volumes whose pairs of states differ by more than they do."""
        table = self.cells.table.to(self.volumes.device)
        volumes = self.volumes[..., : self.n_features].double() @ table.T
        middle = 0.5 * (volumes[..., idle] + volumes[..., large])
        apart = 0.5 * APART * (volumes[..., idle] - volumes[..., large])
        volumes[..., idle], volumes[..., large] = middle + apart, middle - apart
        out = self.volumes.clone()
        out[..., : self.n_features] = (volumes @ torch.linalg.inv(table).T).float()
        return out


def better_states(
    curve: CurvedFit, radii: list[int], most: int, dimensions: int, images: int, seed: int
) -> StatesFit | None:
    """States by which ``images`` are explained better than by a curve, if there are such.

    Parameters
    ----------
    curve : CurvedFit
        Learned at ``radii``.
    radii : list of int
        Bands.
    most : int
        States, at most.
    dimensions : int
        Of their latents.
    images : int
        Of all processes.
    seed : int
    """
    count = min(most, images // IMAGES_PER_STATE)
    if count < FEWEST or not curve.held_out().wins:  # nor where there is nothing to explain
        return None
    fit = StatesFit(curve, count, dimensions, seed)
    first = curve.first_gains if len(curve.first_gains) else curve.gains()
    if len(fit.states.projection) < FEWEST or not fit.try_at(radii[0], first):
        return None
    fit.go_on(radii)
    return fit if fit.beats(curve.gains()) else None

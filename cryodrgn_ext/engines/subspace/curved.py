"""Latents and volumes of the curved model together, each half-set's latents from the other half-set's volumes.

Volumes are linear in smooth functions of the latents (:mod:`.features`), and latents are a distribution over cells of
latent space (:mod:`.cells`; as in generative topographic mapping, Bishop, Svensen and Williams 1998). Each pass infers
the posterior of every image, exact for the curved model, with the particle scale integrated out; volumes and the prior
of the latents are those that the other half-set learned, so that no image meets its own noise. From the posteriors
follow the volumes and the prior of the image's own half-set.

The gain, the log likelihood per image less that of the average structure, rises while there is more to learn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from cryodrgn_ext.engines.distributed import current
from cryodrgn_ext.engines.held_out import SURE, HeldOut
from cryodrgn_ext.engines.subspace.assignment import node_probabilities
from cryodrgn_ext.engines.subspace.band import Band
from cryodrgn_ext.engines.subspace.cells import Cells, ImageTerms
from cryodrgn_ext.engines.subspace.equations import Equations
from cryodrgn_ext.engines.subspace.features import Features
from cryodrgn_ext.engines.subspace.grid import padded
from cryodrgn_ext.engines.subspace.held_regions import HeldRegions
from cryodrgn_ext.engines.subspace.prior_shares import MOST_SHARE_STEPS, prior_shares
from cryodrgn_ext.engines.subspace.states import States
from cryodrgn_ext.engines.subspace.torch_form import Chunk
from cryodrgn_ext.progress import Monitor

PRIOR_PASSES = 2  # at each band, after which the prior of its volumes stays
MOST_PASSES = 5  # at each band
LEAST_RISE = 0.02  # of the gain, that is worth another pass
LEAST_SCALE = 0.05
LEAST_SPREAD = 1e-3  # of the scales
FAR = 2.5  # ratio of bands that calls for one between


@dataclass
class HalfLatents:
    """Latents of the images of one half-set that this process works on; each pass puts its own in.

    Attributes
    ----------
    rows : Tensor
        (n,) int64 particle rows.
    mean : Tensor
        (n, d) float32.
    covariance : Tensor
        (n, d, d) float32.
    scale : Tensor
        (n,) float32 particle scale.
    rare : Tensor
        (n, K) float32 probabilities of rare states.
    gain : Tensor
        (n, 2) float64 log likelihood per image: under the model less the average structure, and under the average
        structure less nothing.
    """

    rows: Int64[Tensor, " n"]
    mean: Float32[Tensor, "n d"]
    covariance: Float32[Tensor, "n d d"]
    scale: Float32[Tensor, " n"]
    rare: Float32[Tensor, "n R"]
    gain: Float64[Tensor, "n 2"]


def curved_bands(start: int, limit: int) -> list[int]:
    """Bands from that of the linear components to the limit, one between where that is far."""
    middle = round((start * limit) ** 0.5)
    between = [middle] if limit > FAR * start else []
    return sorted({min(start, limit), *between, limit})


def gained(gain: Float64[Tensor, "n 2"]) -> HeldOut:
    """Means over the images of all processes, of gains as :class:`HalfLatents` has them."""
    sums = torch.stack([torch.ones(len(gain)).double(), gain[:, 0], gain[:, 0].square(), gain[:, 1]]).sum(1)
    current().sum(sums)
    n, mean, square, average = sums.tolist()
    mean /= n
    return HeldOut(mean, max(square / n - mean**2, 0.0) ** 0.5 / n**0.5, average / n)


class CurvedFit:
    """The alternation.

    Parameters
    ----------
    features : Features or States
    halves : list of HalfLatents
        Of both half-sets, to begin with.
    make_bands : callable
        radius -> bands of both half-sets' images, whose rows are those of the half-set in ascending order.
    locals_ : list of Tensor
        Rows of this process within each half-set's band.
    regions : HeldRegions
        That components are held to.
    scale_spread : float
        Standard deviation of the particle scale about 1; 0 when it is not fitted.
    monitor : Monitor
    """

    share_steps = MOST_SHARE_STEPS

    def __init__(
        self, features: Features | States, halves: list[HalfLatents], make_bands: Callable[[int], list[Band]],
        locals_: list[Tensor], regions: HeldRegions, scale_spread: float, monitor: Monitor,
    ) -> None:  # fmt: skip
        self.halves, self.make_bands, self.locals = halves, make_bands, locals_
        self.regions, self.monitor = regions, monitor
        self.scale_spread, self.fit_scale = scale_spread, scale_spread > 0
        self.strength = 1.0  # of the other half-set's volumes in images, where scales are 1 on average
        self.take(features)
        self.bands: list[Band] = []
        self.values: list[Tensor] = []
        self.precision = torch.zeros(0)
        self.told = torch.zeros(0, dtype=torch.float64)  # (Q,) by each component to all images, in nats
        self.solved = self.inferred = self.refined_radius = 0  # times at this band; where others were tried in vain
        self.volumes = torch.zeros(0)  # (V, 2, Qp) of both half-sets together
        self.earlier: list[Tensor] = []  # volumes of the half-sets and of both together, before the last pass
        self.former: Tensor | None = None
        self.first_gains = torch.zeros(0, dtype=torch.float64)  # (N,) at the end of the first band
        self.begun = [(h.mean.clone(), h.covariance.clone()) for h in halves]  # until then: latents of the beginning

    def take(self, features: Features | States) -> None:
        """Make volumes linear in ``features``, each node of which has its share of the particles."""
        self.features, self.cells = features, Cells(features)
        self.outer = (self.cells.table[:, :, None] * self.cells.table[:, None, :]).float().flatten(1)
        self.n_features = self.cells.table.shape[1]
        self.columns = self.n_features + self.halves[0].rare.shape[1]
        self.shares = [features.nodes.weight.clone() for _ in self.halves]

    @property
    def radius(self) -> int:
        """Band that the volumes are at."""
        return self.bands[0].radius

    @property
    def share(self) -> Tensor:
        """(K,) of all particles at each node."""
        return 0.5 * (self.shares[0] + self.shares[1])

    def widen(self, radius: int) -> None:
        """Go to another band."""
        bands = self.make_bands(radius)
        grid = bands[0].grid
        if self.bands:
            old = self.bands[0].grid
            *self.values, self.volumes = (
                old.moved_to(v.cpu(), grid).to(v.device) for v in (*self.values, self.volumes)
            )
        else:
            empty = torch.zeros(grid.n_voxels, 2, padded(self.columns), device=bands[0].device)
            self.values, self.volumes = [empty, empty.clone()], empty.clone()
        self.bands, self.solved, self.inferred = bands, 0, 0

    def run(
        self, radii: list[int], checkpoint: Callable[[], None], refine: Callable[[CurvedFit], bool] = lambda _: False
    ) -> HeldOut:
        """Alternate at each band of ``radii`` until nothing more is gained.

        After :meth:`restore` it goes on from there. ``refine`` may change the features where a band has nothing more to
        tell by those that there are, and says whether it did.
        """
        if not self.bands:
            self.widen(radii[0])
            self.alternate("Volumes", begin=True)
            checkpoint()
        while not (self._converged() and self.radius == radii[-1]):
            if self._converged():
                self._refined(refine, checkpoint)
                self._note_first(radii)
                self.widen(min(r for r in radii if r > self.radius))
            self.advance("Latents and volumes")
            checkpoint()
        self._refined(refine, checkpoint)
        self._note_first(radii)
        return self.held_out()

    def advance(self, label: str) -> None:
        """One pass; where images gain less by the volumes of the one before, the band has had its passes.

        Then what volumes differ by is again what latents were inferred from; their average stays.
        """
        kept, former = (self.snapshot(), self.gains()) if self.inferred else (None, None)
        earlier, before, self.former = self.earlier, [*self.values, self.volumes], former
        self.alternate(label)
        self.earlier = before
        if kept is not None and former is not None and self.gains().mean() < former.mean():
            self.go_back(*kept)
            for values, present in zip(earlier, (*self.values, self.volumes), strict=True):
                values[..., 0] = present[..., 0]
            self.values, self.volumes, self.inferred = earlier[:2], earlier[2], MOST_PASSES

    def _refined(self, refine: Callable[[CurvedFit], bool], checkpoint: Callable[[], None]) -> None:
        while self.refined_radius != self.radius:
            self.refined_radius = 0 if refine(self) else self.radius
            checkpoint()

    def _note_first(self, radii: list[int]) -> None:
        if self.radius == radii[0]:
            self.first_gains, self.begun = self.gains(), []

    def _converged(self) -> bool:
        """Whether this band has nothing more to tell, or has had its passes."""
        return self.inferred > 1 and (self.inferred >= MOST_PASSES or not self.rose())

    def state(self, images: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Return plain numbers and tensors, for :meth:`restore`; ``images`` of all processes."""
        numbers = {"curved_radius": self.radius, "solved": self.solved, "inferred": self.inferred,
                   "scale_spread": self.scale_spread, "refined_radius": self.refined_radius,
                   "strength": self.strength, "chance": self.regions.chance}  # fmt: skip
        tensors = {"half1": self.values[0], "half2": self.values[1], "both": self.volumes}
        tensors |= {
            "first_gains": self.first_gains,
            "precision": self.precision,
            "told": self.told,
            "reliability": self.regions.reliability,
            "average_reliability": self.regions.average,
            "share1": self.shares[0],
            "share2": self.shares[1],
        }
        for name in ("mean", "covariance", "scale", "gain"):
            tensors[f"latent_{name}"] = current().gather_rows(self.in_order(name), images)
        tensors |= {f"earlier{number}": values for number, values in enumerate(self.earlier)}
        if isinstance(self.features, Features):
            tensors |= self.features.tensors()
        return numbers, tensors if self.former is None else {**tensors, "former": self.former}

    def restore(self, numbers: Mapping[str, float], tensors: Mapping[str, Tensor]) -> None:
        """Go back to where another run was, after a pass."""
        if "feature_centres" in tensors:  # not in checkpoints of earlier versions
            self.take(Features.from_tensors(tensors))
        self.refined_radius = int(numbers.get("refined_radius", 0))
        self.widen(int(numbers["curved_radius"]))
        self.solved, self.inferred = int(numbers["solved"]), int(numbers["inferred"])
        self.scale_spread, self.strength = float(numbers["scale_spread"]), float(numbers.get("strength", 1.0))
        self.values = [tensors[name].to(self.bands[0].device) for name in ("half1", "half2")]
        self.volumes = tensors["both"].to(self.bands[0].device)
        self.earlier = [tensors[f"earlier{i}"].to(self.volumes.device) for i in range(3) if f"earlier{i}" in tensors]
        self.precision, self.former = tensors["precision"], tensors.get("former")
        self.shares, self.told = [tensors["share1"], tensors["share2"]], tensors.get("told", self.told)
        # Not in checkpoints of earlier versions:
        self.first_gains = tensors.get("first_gains", self.first_gains)
        self.begun = [] if len(self.first_gains) else self.begun
        self.regions = replace(
            self.regions,
            reliability=tensors.get("reliability", self.regions.reliability),
            average=tensors.get("average_reliability", self.regions.average),
            chance=float(numbers.get("chance", 0.0)),
        )
        for half in self.halves:
            for name in ("mean", "covariance", "scale", "gain"):
                setattr(half, name, tensors[f"latent_{name}"][half.rows])

    def in_order(self, name: str) -> Tensor:
        """An attribute of both half-sets' latents, in ascending order of this process's rows."""
        order = torch.cat([half.rows for half in self.halves]).argsort()
        together: Tensor = torch.cat([getattr(half, name) for half in self.halves])[order]
        return together

    def alternate(self, label: str, begin: bool = False) -> None:
        """Latents of all images, volumes and prior of both half-sets; at the beginning from the latents given."""
        equations = Equations.empty(self.bands[0], self.columns)
        sums = torch.zeros(3, dtype=torch.float64)
        found = []
        for half, band in enumerate(self.bands):
            rows, start = self.locals[half], 0
            nodes, logits = [], []
            chunks = self.monitor.track(band.chunks(rows), f"{label}, half {half + 1}", len(rows), band.chunk_size)
            for chunk in chunks:
                self.monitor.poll()
                here = slice(start, start + len(chunk.rows))
                start = here.stop
                if begin:
                    moments = self._first_moments(self.halves[half], here)
                else:
                    moments, node, logit, own = self._infer(half, chunk, here)
                    nodes.append(node.to(torch.int16))
                    logits.append(logit)
                    sums += own
                which = torch.full((len(chunk.rows),), half, device=band.device)
                scale = self.halves[half].scale[here].to(band.device)
                moments = self._with_rare(moments, self.halves[half].rare[here]).to(band.device)
                equations.add(self.values[half], chunk, scale, which, moments)
            empty = torch.zeros(0, 1)
            found.append((torch.cat(nodes or [empty.to(torch.int16)]), torch.cat(logits or [empty])))
        current().sum(sums)
        self._solve(equations)
        if not begin:
            self.shares, self.inferred = prior_shares(found, self.shares, self.share_steps), self.inferred + 1
            n, scale, deviation = sums.tolist()
            if self.fit_scale:
                self.scale_spread = max(deviation / n - (scale / n - 1) ** 2, LEAST_SPREAD**2) ** 0.5
                self.strength *= scale / n

    # Volumes --------------------------------------------------------------------------------------------------------

    def _first_moments(self, half: HalfLatents, here: slice) -> Tensor:
        """(b, q, q) second moments of the features, from Gaussian posteriors of the linear components."""
        nodes = self.features.nodes
        probability = node_probabilities(half.mean[here].double(), half.covariance[here], nodes).float()
        return (probability @ self.outer).view(-1, self.n_features, self.n_features)

    def _with_rare(self, features: Tensor, rare: Tensor) -> Tensor:
        """(b, Q, Q) second moments of the weights of features and rare states, as if these were independent."""
        q = self.n_features
        moments = torch.zeros(len(rare), self.columns, self.columns)
        moments[:, :q, :q] = features
        moments[:, :q, q:] = features[:, :, :1] * rare[:, None, :]
        moments[:, q:, :q] = moments[:, :q, q:].mT
        moments[:, q:, q:] = torch.diag_embed(rare)
        return moments

    def _solve(self, equations: Equations) -> None:
        """Volumes of both half-sets, and of both together."""
        equations.complete()
        grid = self.bands[0].grid
        self.solved += 1
        if self.solved <= PRIOR_PASSES:
            free = torch.zeros(self.radius + 1, self.columns, dtype=torch.float64)
            raw = [self._held(equations.solve(self.values[half], free, half)) for half in (0, 1)]
            signal = equations.signal(*raw)
            self.precision = equations.precision(signal, self.regions.shares(self.n_features, self.columns))
            self.told = (torch.bincount(grid.shell)[:, None] * signal * equations.diagonal()).sum(0)
        both = equations.solve(0.5 * (self.values[0] + self.values[1]), self.precision)
        halves = [equations.solve(self.values[half], self.precision, half) for half in (0, 1)]
        if self.solved <= PRIOR_PASSES:
            self.regions = self.regions.measured(grid, halves[0], halves[1], self.n_features)
        self.volumes, self.values = self._held(both, together=True), [self._held(half) for half in halves]

    def _held(self, values: Tensor, together: bool = False) -> Tensor:
        return self.regions.hold(self.bands[0].grid, values, self.n_features, together)

    # Latents --------------------------------------------------------------------------------------------------------

    def _infer(self, half: int, chunk: Chunk, here: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Put in the latents of some images.

        Returns
        -------
        tuple of Tensor
            Second moments of the features, likeliest nodes and log likelihoods there; number of images, and sums of
            their scales and of the squared deviations of these from 1.
        """
        own, other = self.halves[half], 1 - half
        inner, cross = self.bands[half].operators.gram(self.values[other], self.columns, chunk)
        # Scales are about 1: what noise in volumes makes all of them weaker would else make volumes stronger in turn.
        inner, cross = inner.cpu() * self.strength**2, cross.cpu() * self.strength
        terms = ImageTerms.split(inner, cross, self.n_features, own.rare[here])
        found = self.cells.posterior(terms, self.shares[other], self.scale_spread if self.fit_scale else 0.0)
        own.mean[here], own.covariance[here] = found.mean.float(), found.covariance.float()
        own.scale[here] = found.scale.clamp_min(LEAST_SCALE).float()
        own.gain[here] = torch.stack([found.evidence - found.average, found.average], 1)
        sums = torch.tensor([len(cross), float(found.scale.sum()), float(found.deviation.sum())], dtype=torch.float64)
        return found.moments, found.node, found.logit, sums

    def snapshot(self) -> tuple[dict[str, Any], list[HalfLatents]]:
        """Model and latents as they are, for :meth:`go_back`; passes write into some of these tensors."""
        names = ("features", "values", "volumes", "earlier", "precision", "told", "regions", "shares",
                 "scale_spread", "strength", "solved", "inferred", "former")  # fmt: skip
        own = {name: list(kept) if isinstance(kept := getattr(self, name), list) else kept for name in names}
        tensors = ("mean", "covariance", "scale", "gain")
        return own, [replace(h, **{name: getattr(h, name).clone() for name in tensors}) for h in self.halves]

    def go_back(self, own: dict[str, Any], halves: list[HalfLatents]) -> None:
        """To a snapshot."""
        self.halves = halves
        if self.features is not own["features"]:
            self.take(own["features"])
        for name, value in own.items():
            setattr(self, name, value)

    # What is gained -------------------------------------------------------------------------------------------------

    def held_out(self) -> HeldOut:
        """What images gain, on average."""
        return gained(torch.cat([half.gain for half in self.halves]))

    def gains(self) -> Tensor:
        """(N,) gain of every image of all processes."""
        out = torch.zeros(sum(band.images.n for band in self.bands), dtype=torch.float64)
        for half in self.halves:
            out[half.rows] = half.gain[:, 0]
        current().sum(out)
        return out

    def rose(self) -> bool:
        """Whether images gain more than they did in the pass before at this band, beyond chance and worth a pass."""
        if self.former is None:
            return True
        gains = self.gains()
        rise = gains - self.former
        return bool(rise.mean() > max(SURE * rise.std(correction=0) / len(rise) ** 0.5, LEAST_RISE * gains.mean()))

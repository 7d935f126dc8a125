"""The linear subspace by expectation maximisation, from low frequencies to those that still tell images apart.

Model: V(z) = consensus + P_0 + sum_j z_j P_j, z ~ N(0, I) (DESIGN: subspace engine; probabilistic PCA under CTF and
pose, as in 3D variability analysis, Punjani and Fleet 2021). Each pass infers the latents of its images in closed
form and solves the components' normal equations voxel by voxel. Trilinear weights couple neighbouring voxels; taking
each sample's error as if it were each corner's own bounds the true error from above and touches it at the present
components, so that a step never lowers the objective (De Pierro's majorisation). After each step the latents are
made uncorrelated, of unit variance, and the components orthogonal (parameter expansion), which makes EM fast.

The prior of each component and shell is what its solutions from the two half-sets have in common.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cryodrgn_ext.engines.distributed import current
from cryodrgn_ext.engines.subspace.anatomy import Anatomy
from cryodrgn_ext.engines.subspace.band import BAND_GROWTH, Band
from cryodrgn_ext.engines.subspace.beginnings import leading_deformations, random_latents
from cryodrgn_ext.engines.subspace.decoder import held_to
from cryodrgn_ext.engines.subspace.deformed import DeformedSubspace, bands_to, half_sets, search
from cryodrgn_ext.engines.subspace.equations import Equations
from cryodrgn_ext.engines.subspace.evidence import Gains, component_gains
from cryodrgn_ext.engines.subspace.grid import ComponentGrid, padded
from cryodrgn_ext.engines.subspace.halves import Halves, independent_halves
from cryodrgn_ext.engines.subspace.posterior import Posterior, infer
from cryodrgn_ext.engines.subspace.rare_posterior import RareStates, infer_mixture
from cryodrgn_ext.engines.subspace.subspace import Subspace
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import Monitor

FIRST_RADIUS = 8
PASSES = (15, 5, 3)  # at the first bands; the last number for all further ones
FREE_PASSES = 5  # with a weak flat prior, until components have emerged from the random start
WEAK_PRIOR = 0.05  # of the mean diagonal of the equations
SAMPLES_PER_PASS = 3e7  # coefficients of a pass: with more images each pass takes a random part of them
WEAK_GAIN = 0.5 * (1 - math.log(2))  # nats by a latent of which an image tells as much as is known without it
LITTLE_GAIN = 1.0  # nats: of images that gain more, free components are told by many of them
LINEAR_SHARE = 0.5  # of the limit: beyond, the curved model goes on, which needs fewer parameters for a motion
LEAST_VARIANCE = 1e-12  # of latents: with fewer images than components some do not vary at all


@dataclass
class PassResult:
    """Means of one pass over images: equations, moments of the latents, scales and their squared deviation from 1."""

    equations: Equations
    count: float
    mean: Tensor
    second: Tensor
    covariance: Tensor
    evidence: float
    particle_scale: float
    scale_deviation: float


class Latents(NamedTuple):
    """Latents of n images, float32.

    Attributes
    ----------
    mean : Tensor
        (n, q).
    covariance : Tensor
        (n, q, q).
    particle_scale : Tensor
        (n,).
    rare : Tensor
        (n, K) probabilities of rare states.
    """

    mean: Tensor
    covariance: Tensor
    particle_scale: Tensor
    rare: Tensor


Inference = Callable[[Tensor, Tensor, Tensor], Posterior]


def images_of_pass(images: ParticleImages, count: int, seed: int) -> Tensor:
    """Rows of a pass that this process takes, ascending: of all images, or of a random part of very many."""
    rows = torch.arange(images.n)
    wanted = int(SAMPLES_PER_PASS // count)
    if wanted < images.n:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(images.n, generator=generator)[:wanted].sort().values
    shard = current().shard(len(rows))
    return rows[shard.start : shard.stop]


def em_pass(band: Band, values: Tensor, zdim: int, rows: Tensor, inference: Inference, monitor: Monitor) -> PassResult:
    """Latents of the images ``rows``, and the equations of the components that follow from them."""
    q = zdim + 1
    equations = Equations.empty(band, q)
    moment = torch.zeros(q, q, dtype=torch.float64)
    covariance = torch.zeros(zdim, zdim, dtype=torch.float64)
    totals = torch.zeros(4, dtype=torch.float64)
    half_set = (band.images.half_set == 2).long()
    for chunk in band.chunks(rows):
        monitor.poll()
        inner, cross = band.operators.gram(values, q, chunk)
        posterior = inference(chunk.rows, inner, cross)
        moments = posterior.moments()
        equations.add(values, chunk, posterior.particle_scale, half_set[chunk.rows], moments)
        moment += moments.double().sum(0).cpu()
        covariance += posterior.covariance.sum(0).cpu()
        deviation = (posterior.particle_scale - 1).square() + posterior.scale_variance
        sums = (float(values.sum()) for values in (posterior.evidence, posterior.particle_scale, deviation))
        totals += torch.tensor([len(chunk.rows), *sums])
    equations.complete()
    current().sum(moment, covariance, totals)
    n, (evidence, scale, deviation) = float(totals[0]), (totals[1:] / totals[0]).tolist()
    return PassResult(
        equations, n, moment[0, 1:] / n, moment[1:, 1:] / n, covariance / n, evidence, scale, deviation
    )  # fmt: skip


def whiten(grid: ComponentGrid, values: Tensor, zdim: int, mean: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Rewrite components so that latents have mean 0 and covariance I, and components are orthogonal.

    Parameters
    ----------
    grid : ComponentGrid
    values : Tensor
        (V, 2, Qp).
    zdim : int
    mean, second : Tensor
        (q,) mean and (q, q) second moments of the latents.

    Returns
    -------
    values : Tensor
        (V, 2, Qp), components in descending order of power.
    power : Tensor
        (q,) float64 sum over the whole sphere of the squared magnitude of P_j.
    """
    out = values.clone()
    parts = values[..., 1 : zdim + 1].double()
    out[..., 0] += (parts @ mean.to(parts)).float()
    covariance = second - mean[:, None] * mean[None, :]
    spread, directions = torch.linalg.eigh(0.5 * (covariance + covariance.T))
    root = (directions * spread.clamp_min(LEAST_VARIANCE).sqrt()) @ directions.T  # the one that depends on no sign
    parts = parts @ root.to(parts)
    weighted = (parts * grid.multiplicity.to(parts)[:, None, None]).flatten(0, 1)
    power, axes = torch.linalg.eigh((weighted.mT @ parts.flatten(0, 1)).cpu())
    order = torch.arange(zdim - 1, -1, -1)
    axes = axes[:, order]
    axes = axes * torch.where(axes.gather(0, axes.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0)  # a fixed sign
    out[..., 1 : zdim + 1] = (parts @ axes.to(parts)).float()
    return out, power[order].clamp_min(0)


class SubspaceFit:
    """Grows the band and iterates.

    Parameters
    ----------
    images : ParticleImages
    make_band : callable
        radius -> Band.
    zdim : int
    limit : int
        Largest radius.
    scale_spread : float
        Standard deviation of the particle scale about 1, to begin with; 0 where it is not fitted.
    anatomy : Anatomy
        Where components may be, and what they may begin with.
    seed : int
    monitor : Monitor
    """

    def __init__(
        self, images: ParticleImages, make_band: Callable[[int], Band], zdim: int, limit: int, scale_spread: float,
        anatomy: Anatomy, seed: int, monitor: Monitor,
    ) -> None:  # fmt: skip
        self.images, self.make_band, self.zdim, self.limit = images, make_band, zdim, limit
        self.scale_spread, self.anatomy, self.seed, self.monitor = scale_spread, anatomy, seed, monitor
        self.band = make_band(min(FIRST_RADIUS, limit))
        self.values = torch.zeros(self.band.grid.n_voxels, 2, padded(zdim + 1), device=self.band.device)
        self.power = torch.zeros(zdim, dtype=torch.float64)
        self.shared = torch.zeros(zdim, dtype=torch.float64)
        self.stage = self.done = 0
        self.fresh = True  # components begin at this band: there are none yet
        self.held = False  # components to the particle: they would not stand out from the noise of the whole box
        self.masks = anatomy.masks(None, self.band.radius, self.held)
        self.deformed: DeformedSubspace | None = None  # whose motions the components are
        self.keeps_scales = False  # whether or not images bear them out
        self.halves: Halves | None = None
        self.signal = torch.zeros(0)
        self.gains = Gains(torch.zeros(1, zdim + 1, dtype=torch.float64))
        self.history: list[float] = []

    def _infer(self, rows: Tensor, inner: Tensor, cross: Tensor) -> Posterior:
        return infer(inner, cross, self.scale_spread)

    def _begin(self, rows: Tensor, inner: Tensor, cross: Tensor) -> Posterior:
        """Latents of the first pass: of the deformations that components begin with, and random ones of the others."""
        posterior = infer(inner, cross)
        unknown = inner.diagonal(dim1=1, dim2=2)[:, 1:].sum(0) == 0
        mean, covariance = posterior.mean, posterior.covariance
        mean[:, unknown] = random_latents(rows, self.zdim, self.seed).to(mean)[:, unknown]
        covariance[:, unknown], covariance[:, :, unknown] = 0, 0
        return replace(posterior, evidence=0 * posterior.evidence)

    @property
    def passes(self) -> int:
        """Passes at the present band."""
        return PASSES[min(self.stage, len(PASSES) - 1)]

    def step(self) -> None:
        """One pass over (a part of) the images, and new components."""
        seed = self.seed + 7919 * self.stage + self.done
        rows = images_of_pass(self.images, self.band.count, seed)
        first = self.fresh and self.done == 0
        if first and self.stage > 0:
            self.values = leading_deformations(self.band, rows, self.anatomy, self.values, self.zdim)
        result = em_pass(self.band, self.values, self.zdim, rows, self._begin if first else self._infer, self.monitor)
        equations = result.equations
        if self.scale_spread > 0 and not first:
            self.values[..., 1:] *= result.particle_scale  # scales are relative: their mean is one
            # About their mean: how strong the average is, the correction of the consensus takes up.
            self.scale_spread = (result.scale_deviation - (result.particle_scale - 1) ** 2) ** 0.5
        raw = equations.halves(self.values)
        grid, masks, share = self.band.grid, self.masks, torch.ones(self.zdim + 1, dtype=torch.float64)
        halves = independent_halves(grid, self.values, *raw, result.covariance, masks)
        if masks is not None:
            share[0], share[1:] = (mask.double().square().mean() for mask in masks)
        signal = equations.signal(halves.first, halves.second)
        self.halves, self.signal = halves, signal
        if self.stage == 0 and self.done < FREE_PASSES:
            precision = WEAK_PRIOR * equations.diagonal() + 1e-20
        else:
            precision = equations.precision(signal, share)
        values = equations.solve(self.values, precision)
        if masks is not None:
            values = held_to(grid, values, *masks)
        self.shared = halves.agreement(self.band.grid, self.zdim + 1)[1:]
        self.values, self.power = whiten(self.band.grid, values, self.zdim, result.mean, result.second)
        if not first:
            self.history.append(-result.evidence / self.band.count)
        self.done += 1

    def weigh(self) -> bool:
        """Measure what the components gain on images of the other half-set; whether it is more than at the last band.

        The first band always counts.
        """
        if self.halves is None:
            return False
        gains, former = component_gains(self.band, self.halves, self.signal, self.scale_spread), self.gains
        self.gains, self.halves = gains, None
        if not (self.keeps_scales or gains.scales_differ):
            self.scale_spread = 0.0  # components explain why images hold the consensus more or less strongly
        return self.stage == 0 or gains.beats(former)

    def grow(self) -> bool:
        """Go on to the next band, if there is one for linear components.

        False where components gained nothing more at this one. Where latents are hardly told yet, it goes on all the
        same: of some motions only higher frequencies tell. There components are held to the particle, whose noise is a
        part of the box's, and what has not gained by this band begins anew at the next.
        """
        last = min(self.limit, max(FIRST_RADIUS, round(LINEAR_SHARE * self.limit)))
        more, weak = self.weigh(), float(self.gains.mean.max()) < WEAK_GAIN
        if weak and more and self.gains.informative:
            last = self.limit
        if self.band.radius >= last or not (more or weak):
            return False
        self.fresh = weak and not (more and self.gains.informative)
        radius = min(last, round(self.band.radius * BAND_GROWTH))
        self.held = self.held or weak
        self.masks = self.anatomy.masks(None if self.fresh else self.subspace, radius, self.held)
        old = self.band.grid
        self.band = self.make_band(radius)
        self.values = old.moved_to(self.values.cpu(), self.band.grid).to(self.values.device)
        self.stage, self.done = self.stage + 1, 0
        return True

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return plain numbers and tensors, for :meth:`restore`."""
        numbers = {"radius": self.band.radius, "stage": self.stage, "done": self.done, "history": self.history,
                   "linear_scale_spread": self.scale_spread, "fresh": self.fresh, "held": self.held,
                   "deformed_radius": 0 if self.deformed is None else self.deformed.radius}  # fmt: skip
        tensors = {"values": self.values, "power": self.power, "agreement": self.shared, "gains": self.gains.values}
        if self.masks is not None:
            tensors |= {"mask0": self.masks[0], "mask1": self.masks[1]}
        if self.deformed is not None:
            tensors |= self.deformed.tensors()
        return numbers, tensors

    def restore(self, numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go back to where another run was."""
        self.band = self.make_band(int(numbers["radius"]))
        self.stage, self.done, self.history = int(numbers["stage"]), int(numbers["done"]), list(numbers["history"])
        self.scale_spread = float(numbers["linear_scale_spread"])
        self.fresh, self.held = bool(numbers["fresh"]), bool(numbers["held"])
        radius = int(numbers.get("deformed_radius", 0))  # not in checkpoints of earlier versions
        self.deformed = DeformedSubspace.from_tensors(radius, tensors) if radius else None
        self.masks = (tensors["mask0"], tensors["mask1"]) if "mask0" in tensors else None
        self.values = tensors["values"].to(self.band.device)
        self.power, self.shared = tensors["power"], tensors["agreement"]
        if "gains" in tensors:  # not in checkpoints of earlier versions
            self.gains = Gains(tensors["gains"])

    def run(self, checkpoint: Callable[[SubspaceFit], None] | None = None) -> Subspace:
        """All bands."""
        while True:
            edge = self.images.box_size * self.images.pixel_size_A / self.band.radius
            label = f"Components to {edge:.1f} Å"
            for _ in self.monitor.track(range(self.done, self.passes), label, self.passes - self.done):
                self.step()
                if checkpoint is not None and self.done < self.passes:  # the last one leaves more than a file keeps
                    checkpoint(self)
            if not self.grow():
                break
        self._take_deformations()
        return self.subspace

    def _take_deformations(self) -> None:
        """Smooth deformations of the consensus in the place of free components, where images gain more by these.

        Where free components tell something, more at bands that these have been tried at.
        """
        if float(self.gains.mean.max()) > LITTLE_GAIN:
            return
        radii, tried = bands_to(FIRST_RADIUS, self.limit), self.band.radius
        half = half_sets(self.images.half_set)
        bands = search(self.make_band, radii, half, self.anatomy, self.zdim, self.scale_spread, self.monitor)
        same = [found.gains for found in bands if found.radius <= tried]
        if not bands or (self.gains.informative and not any(gains.exceed(self.gains) for gains in same)):
            return
        found = max(bands, key=lambda band: float(band.gains.mean.max()))
        self.band, self.deformed = self.make_band(found.radius), found
        count = len(found.agreement)
        deformations = self.anatomy.deformations(self.band.grid).on(self.band.device)
        self.values = torch.zeros(self.band.grid.n_voxels, 2, padded(self.zdim + 1), device=self.band.device)
        columns = torch.cat([found.both.average[:, None], found.both.loadings], 1)
        self.values[..., : count + 1] = found.both.components(deformations, columns)[..., : count + 1]
        self.power, self.shared = torch.zeros(self.zdim).double(), torch.zeros(self.zdim).double()
        self.power[:count], self.shared[:count] = found.both.power, found.agreement
        self.gains, self.halves = found.gains, None

    @property
    def subspace(self) -> Subspace:
        """The components as they are."""
        return Subspace(self.band.grid, self.values, self.zdim, self.power, self.shared, self.gains.informative)


def latents(
    fit: SubspaceFit, subspace: Subspace, rows: Tensor, monitor: Monitor, states: RareStates | None = None
) -> Latents:
    """Latents of all images ``rows`` at the fit's band, and which of them have rare states."""
    states = RareStates.none(subspace.grid) if states is None else states
    q = subspace.zdim + 1
    values = states.beside(subspace.values, q) if len(states) else subspace.values
    empty = torch.zeros(0, subspace.zdim)
    parts = [Latents(empty, torch.zeros(0, subspace.zdim, subspace.zdim), empty[:, 0], torch.zeros(0, len(states)))]
    for chunk in monitor.track(fit.band.chunks(rows), "Latents", len(rows), fit.band.chunk_size):
        inner, cross = fit.band.operators.gram(values, q + len(states), chunk)
        if len(states):
            posterior, rare = infer_mixture(inner, cross, q, states, fit.scale_spread)
        else:
            posterior = fit._infer(chunk.rows, inner, cross)
            rare = posterior.mean[:, :0]
        found = (posterior.mean, posterior.covariance, posterior.particle_scale, rare)
        parts.append(Latents(*(tensor.float().cpu() for tensor in found)))
    return Latents(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

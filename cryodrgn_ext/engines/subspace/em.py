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

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cryodrgn_ext.engines.distributed import current
from cryodrgn_ext.engines.subspace.band import Band
from cryodrgn_ext.engines.subspace.equations import Equations
from cryodrgn_ext.engines.subspace.evidence import Gains, component_gains
from cryodrgn_ext.engines.subspace.grid import ComponentGrid, padded
from cryodrgn_ext.engines.subspace.halves import Halves, independent_halves
from cryodrgn_ext.engines.subspace.posterior import Posterior, infer
from cryodrgn_ext.engines.subspace.rare_posterior import RareStates, infer_mixture
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import Monitor

FIRST_RADIUS = 8
BAND_GROWTH = 1.4
PASSES = (15, 5, 3)  # at the first bands; the last number for all further ones
FREE_PASSES = 5  # with a weak flat prior, until components have emerged from the random start
WEAK_PRIOR = 0.05  # of the mean diagonal of the equations
SAMPLES_PER_PASS = 3e7  # coefficients of a pass: with more images each pass takes a random part of them
RANDOM_BLOCK = 4096  # rows that one random generator starts
LINEAR_SHARE = 0.5  # of the limit: beyond, the curved model goes on, which needs fewer parameters for a motion
LEAST_POWER = 1e-3  # of all components' power, of one that is called real
LEAST_VARIANCE = 1e-12  # of latents: with fewer images than components some do not vary at all
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


@dataclass
class PassResult:
    """Sums of one pass over images: equations, and moments of the latents."""

    equations: Equations
    count: float
    mean: Tensor
    second: Tensor
    covariance: Tensor
    evidence: float
    particle_scale: float


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
    totals = torch.zeros(3, dtype=torch.float64)
    half_set = (band.images.half_set == 2).long()
    for chunk in band.chunks(rows):
        monitor.poll()
        inner, cross = band.operators.gram(values, q, chunk)
        posterior = inference(chunk.rows, inner, cross)
        moments = posterior.moments()
        equations.add(values, chunk, posterior.particle_scale, half_set[chunk.rows], moments)
        moment += moments.double().sum(0).cpu()
        covariance += posterior.covariance.sum(0).cpu()
        sums = float(posterior.evidence.sum()), float(posterior.particle_scale.sum())
        totals += torch.tensor([len(chunk.rows), *sums])
    equations.complete()
    current().sum(moment, covariance, totals)
    n, evidence, particle_scale = totals.tolist()
    return PassResult(
        equations, n, moment[0, 1:] / n, moment[1:, 1:] / n, covariance / n, evidence / n, particle_scale / n
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
    fit_contrast : bool
    restrict : callable, optional
        Applied to the components after each step, such as a focus mask: (grid, values) -> values.
    seed : int
    monitor : Monitor
    """

    def __init__(
        self, images: ParticleImages, make_band: Callable[[int], Band], zdim: int, limit: int, fit_contrast: bool,
        restrict: Callable[[ComponentGrid, Tensor], Tensor] | None, seed: int, monitor: Monitor,
    ) -> None:  # fmt: skip
        self.images, self.make_band, self.zdim, self.limit = images, make_band, zdim, limit
        self.fit_contrast, self.restrict, self.seed, self.monitor = fit_contrast, restrict, seed, monitor
        self.band = make_band(min(FIRST_RADIUS, limit))
        self.values = torch.zeros(self.band.grid.n_voxels, 2, padded(zdim + 1), device=self.band.device)
        self.power = torch.zeros(zdim, dtype=torch.float64)
        self.shared = torch.zeros(zdim, dtype=torch.float64)
        self.stage = self.done = 0
        self.halves: Halves | None = None
        self.signal = torch.zeros(0)
        self.gains = Gains(torch.zeros(1, zdim + 1, dtype=torch.float64))
        self.history: list[float] = []

    def _infer(self, rows: Tensor, inner: Tensor, cross: Tensor) -> Posterior:
        return infer(inner, cross, self.fit_contrast)

    def _random(self, rows: Tensor, inner: Tensor, cross: Tensor) -> Posterior:
        """Latents of the first pass, from seed and row alone: the same however images are cut into chunks."""
        block_of = torch.div(rows, RANDOM_BLOCK, rounding_mode="floor")
        mean = torch.empty(len(rows), self.zdim, dtype=torch.float64)
        for block in block_of.unique().tolist():
            generator = torch.Generator().manual_seed(self.seed + 1_000_003 * (block + 1))
            numbers = torch.randn(RANDOM_BLOCK, self.zdim, generator=generator, dtype=torch.float64)
            members = block_of == block
            mean[members] = numbers[rows[members] - block * RANDOM_BLOCK]
        mean = mean.to(inner.device)
        ones = torch.ones(len(rows), dtype=torch.float64, device=inner.device)
        return Posterior(mean, torch.zeros(len(rows), self.zdim, self.zdim).to(mean), ones, 0 * ones)

    @property
    def passes(self) -> int:
        """Passes at the present band."""
        return PASSES[min(self.stage, len(PASSES) - 1)]

    def step(self) -> None:
        """One pass over (a part of) the images, and new components."""
        seed = self.seed + 7919 * self.stage + self.done
        rows = images_of_pass(self.images, self.band.count, seed)
        first = self.stage == self.done == 0
        result = em_pass(self.band, self.values, self.zdim, rows, self._random if first else self._infer, self.monitor)
        equations = result.equations
        if self.fit_contrast and not first:
            self.values[..., 1:] *= result.particle_scale  # scales are relative: their mean is one
        raw = equations.halves(self.values)
        halves = independent_halves(self.band.grid, self.values, *raw, result.covariance)
        signal = equations.signal(halves.first, halves.second)
        self.halves, self.signal = halves, signal
        if self.stage == 0 and self.done < FREE_PASSES:
            precision = WEAK_PRIOR * equations.diagonal() + 1e-20
        else:
            precision = equations.precision(signal)
        values = equations.solve(self.values, precision)
        if self.restrict is not None:
            values = self.restrict(self.band.grid, values)
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
        gains, former = component_gains(self.band, self.halves, self.signal, self.fit_contrast), self.gains
        self.gains, self.halves = gains, None
        return self.stage == 0 or gains.beats(former)

    def grow(self) -> bool:
        """Go on to the next band; False when the present one gained nothing, or is the last for linear components."""
        last = min(self.limit, max(FIRST_RADIUS, round(LINEAR_SHARE * self.limit)))
        if not self.weigh() or self.band.radius >= last:
            return False
        radius = min(last, round(self.band.radius * BAND_GROWTH))
        old = self.band.grid
        self.band = self.make_band(radius)
        self.values = old.moved_to(self.values.cpu(), self.band.grid).to(self.values.device)
        self.stage, self.done = self.stage + 1, 0
        return True

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return plain numbers and tensors, for :meth:`restore`."""
        numbers = {"radius": self.band.radius, "stage": self.stage, "done": self.done, "history": self.history}
        tensors = {"values": self.values, "power": self.power, "agreement": self.shared, "gains": self.gains.values}
        return numbers, tensors

    def restore(self, numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go back to where another run was."""
        self.band = self.make_band(int(numbers["radius"]))
        self.stage, self.done, self.history = int(numbers["stage"]), int(numbers["done"]), list(numbers["history"])
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
        return self.subspace

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
            posterior, rare = infer_mixture(inner, cross, q, states, fit.fit_contrast)
        else:
            posterior = fit._infer(chunk.rows, inner, cross)
            rare = posterior.mean[:, :0]
        found = (posterior.mean, posterior.covariance, posterior.particle_scale, rare)
        parts.append(Latents(*(tensor.float().cpu() for tensor in found)))
    return Latents(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

"""Posterior of images over latent space: a node of it and a Gaussian about that node, exact to first order.

The prior of a latent is a mixture: each node of the features stands for a Gaussian cell about it, as wide as half the
distance to its neighbours. Within a cell the weights of the components change linearly, by the features' slopes, so
that the posterior there is Gaussian in closed form, and its evidence too. Sharp posteriors lie between the nodes, as
far as the image tells, and broad ones spread over many of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from cryodrgn_ext.engines.subspace.features import Features
from cryodrgn_ext.engines.subspace.states import States

NEAR = 64  # likeliest nodes of an image whose cells are looked into, at most
FEWEST_NEAR = 16
UNLIKELY = 15.0  # nats below the likeliest node: a cell that does not count
BLOCK = 256  # images at a time
LEAST_VARIANCE = 1e-12
REACH = 3.0  # standard deviations of a cell's prior that a latent may be off its node


@dataclass(frozen=True)
class ImageTerms:
    """Inner products of B images with what their model is made of, float64; weights w give the model sum_j w_j p_j + r.

    Attributes
    ----------
    inner : Tensor
        (B, q, q) of p_0..p_q-1.
    cross : Tensor
        (B, q) of these with the image.
    beside : Tensor
        (B, q) of these with r, what rare states add.
    norm, along : Tensor
        (B,) of r with itself, and with the image.
    """

    inner: Float64[Tensor, "B q q"]
    cross: Float64[Tensor, "B q"]
    beside: Float64[Tensor, "B q"]
    norm: Float64[Tensor, " B"]
    along: Float64[Tensor, " B"]

    @classmethod
    def split(
        cls, inner: Float[Tensor, "B Q Q"], cross: Float[Tensor, "B Q"], q: int, rare: Float[Tensor, "B R"]
    ) -> ImageTerms:
        """Of products (B, Q, Q), (B, Q) whose columns from ``q`` are rare states, of probabilities (B, Q - q)."""
        inner, cross, rare = inner.double(), cross.double(), rare.double()
        beside = (inner[:, :q, q:] @ rare[..., None])[..., 0]
        norm = (rare[:, None] @ inner[:, q:, q:] @ rare[..., None])[:, 0, 0]
        return cls(inner[:, :q, :q], cross[:, :q], beside, norm, (cross[:, q:] * rare).sum(1))

    def __getitem__(self, here: slice) -> ImageTerms:
        """Those of some images."""
        return ImageTerms(self.inner[here], self.cross[here], self.beside[here], self.norm[here], self.along[here])

    def __len__(self) -> int:
        return len(self.cross)


@dataclass(frozen=True)
class ScaleIntegral:
    """Log likelihood with the particle scale integrated out, and the scale's own posterior; all of one shape."""

    logit: Float64[Tensor, "*B"]
    mean: Float64[Tensor, "*B"]
    variance: Float64[Tensor, "*B"]

    @classmethod
    def over(cls, along: Float64[Tensor, "*B"], norm: Float64[Tensor, "*B"], spread: float) -> ScaleIntegral:
        """Of models with inner products ``along`` with the image and ``norm`` with themselves.

        Parameters
        ----------
        along, norm : Tensor
        spread : float
            Standard deviation of the scale about 1; 0 where it is 1.
        """
        if spread == 0:
            return cls(2 * along - norm, torch.ones_like(norm), torch.zeros_like(norm))
        tight = 1 / spread**2
        sharp, mean = 2 * norm + tight, (2 * along + tight) / (2 * norm + tight)
        return cls(0.5 * sharp * mean.square() - 0.5 * (sharp / tight).log() - 0.5 * tight, mean, 1 / sharp)


@dataclass(frozen=True)
class CellPosterior:
    """Posterior of B images.

    Attributes
    ----------
    mean, covariance : Tensor
        (B, d), (B, d, d) float64 of the latents.
    moments : Tensor
        (B, q, q) float32 second moments of the weights.
    node : Tensor
        (B, T) int64 likeliest nodes.
    logit : Tensor
        (B, T) float32 log likelihood of the image in their cells, up to a constant of its own; -inf if hardly there.
    scale : Tensor
        (B,) float64 mean particle scale.
    deviation : Tensor
        (B,) float64 mean squared deviation of the scale from 1.
    evidence, average : Tensor
        (B,) float64 log likelihood of the image under the model, and under its first component alone, above nothing.
    """

    mean: Float64[Tensor, "B d"]
    covariance: Float64[Tensor, "B d d"]
    moments: Float32[Tensor, "B q q"]
    node: Int64[Tensor, "B T"]
    logit: Float32[Tensor, "B T"]
    scale: Float64[Tensor, " B"]
    deviation: Float64[Tensor, " B"]
    evidence: Float64[Tensor, " B"]
    average: Float64[Tensor, " B"]


class Cells:
    """Cells about the nodes of features; those of states hold nothing but their node.

    Parameters
    ----------
    features : Features or States
    """

    def __init__(self, features: Features | States) -> None:
        self.discrete = isinstance(features, States)
        self.centres = features.nodes.centres
        self.table = features.at_nodes()  # (K, q)
        self.slope = features.slopes()  # (K, q, d)
        self.variance = LEAST_VARIANCE + (0.0 if self.discrete else 0.25 * features.nodes.cell)

    def posterior(self, terms: ImageTerms, share: Float64[Tensor, " K"], spread: float) -> CellPosterior:
        """Infer latents.

        Parameters
        ----------
        terms : ImageTerms
        share : Tensor
            (K,) prior probability of the nodes.
        spread : float
            Of the particle scale, see :class:`ScaleIntegral`.
        """
        blocks = [slice(start, start + BLOCK) for start in range(0, max(len(terms), 1), BLOCK)]
        infer = self._of_states if self.discrete else self._posterior
        parts = [infer(terms[here], share.log(), spread) for here in blocks]
        names = CellPosterior.__dataclass_fields__
        return CellPosterior(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    def weights(
        self, x: Float[Tensor, "P d"], covariance: Float[Tensor, "d d"], share: Float64[Tensor, " K"]
    ) -> Float64[Tensor, "P q"]:
        """Mean weights (P, q) of the components where latents may lie of which ``x`` (P, d) are known.

        Parameters
        ----------
        x : Tensor
        covariance : Tensor
            (d, d) of the errors of ``x``.
        share : Tensor
            (K,) prior probability of the nodes.
        """
        d = x.shape[1]
        own = self.variance * torch.eye(d, dtype=torch.float64)
        factor = torch.linalg.cholesky(covariance.double() + own)
        parts = []
        for part in x.double().split(BLOCK):
            offset = part[:, None] - self.centres  # (b, K, d)
            whitened = torch.linalg.solve_triangular(factor, offset.mT, upper=False)
            probability = torch.softmax(share.log() - 0.5 * whitened.square().sum(1), dim=1)
            step = torch.cholesky_solve(offset.mT, factor).mT @ own
            moved = self.table + (self.slope @ (step * self._reach(step)[..., None])[..., None])[..., 0]
            parts.append((probability[..., None] * moved).sum(1))
        return torch.cat(parts) if parts else self.table[:0]

    def _reach(self, step: Float64[Tensor, "*B d"]) -> Float64[Tensor, "*B"]:
        """Factor that steps (..., d) from nodes are cut by: beyond its cell a node's slope says little."""
        most = REACH * (step.shape[-1] * self.variance) ** 0.5
        reach: Tensor = (most / step.norm(dim=-1).clamp_min(1e-300)).clamp_max(1)
        return reach

    def _at_nodes(self, terms: ImageTerms, spread: float) -> ScaleIntegral:
        """(B, K) of the model at every node."""
        along = terms.cross @ self.table.T + terms.along[:, None]
        norm = ((terms.inner @ self.table.T) * self.table.T).sum(1) + 2 * terms.beside @ self.table.T
        return ScaleIntegral.over(along, norm + terms.norm[:, None], spread)

    def _of_states(self, terms: ImageTerms, log_share: Tensor, spread: float) -> CellPosterior:
        whole = self._at_nodes(terms, spread)
        weighted = whole.logit + log_share
        evidence = weighted.logsumexp(1)
        probability = (weighted - evidence[:, None]).exp()
        mean = probability @ self.centres
        offset = (self.centres - mean[:, None]) * probability.sqrt()[..., None]
        outer = (self.table[:, :, None] * self.table[:, None, :]).flatten(1)
        deviation = (probability * ((whole.mean - 1).square() + whole.variance)).sum(1)
        average = ScaleIntegral.over(terms.cross[:, 0], terms.inner[:, 0, 0], spread).logit
        q = self.table.shape[1]
        return CellPosterior(
            mean, offset.mT @ offset, (probability @ outer).view(-1, q, q).float(),
            torch.arange(len(log_share)).expand(weighted.shape),
            (whole.logit - weighted.max(1, keepdim=True).values).float(),
            (probability * whole.mean).sum(1), deviation, evidence, average,
        )  # fmt: skip

    def _posterior(self, terms: ImageTerms, log_share: Tensor, spread: float) -> CellPosterior:
        whole = self._at_nodes(terms, spread)
        count = min(NEAR, len(log_share))
        best, node = (whole.logit + log_share).topk(count, dim=1)
        likely = int((best > best[:, :1] - UNLIKELY).sum(1).max())
        node = node[:, : max(likely, FEWEST_NEAR)]
        logit, scale, variance = (tensor.gather(1, node) for tensor in (whole.logit, whole.mean, whole.variance))
        weight, slope = self.table[node], self.slope[node]  # (B, T, q), (B, T, q, d)

        b, t, q, d = slope.shape
        pushed = weight @ terms.inner + terms.beside[:, None]
        own = (scale.square() + variance)[..., None]
        pull = 2 * (scale[..., None] * terms.cross[:, None] - own * pushed)
        gradient = (pull[:, :, None] @ slope)[:, :, 0]
        across = (terms.inner @ slope.permute(0, 2, 1, 3).reshape(b, q, t * d)).view(b, q, t, d).permute(0, 2, 1, 3)
        bend = 2 * scale[..., None, None].square() * (slope.mT @ across)
        if spread > 0:  # what a scale could do as well tells nothing of the latent
            alike = 2 * scale[..., None] * (pushed[:, :, None] @ slope)[:, :, 0]
            bend = bend - alike[..., None] * alike[..., None, :] * variance[..., None, None]
        factor = torch.linalg.cholesky(bend + torch.eye(d, dtype=torch.float64) / self.variance)
        root = torch.linalg.solve_triangular(factor, torch.eye(d, dtype=torch.float64).expand_as(factor), upper=False)
        step = (root.mT @ (root @ gradient[..., None]))[..., 0]
        reach = self._reach(step)
        step = step * reach[..., None]
        determinant = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * d * torch.tensor(self.variance).log()
        logit = logit + (1 - 0.5 * reach) * (gradient * step).sum(-1) - determinant

        weighted = logit + log_share[node]
        evidence = weighted.logsumexp(1)
        probability = (weighted - evidence[:, None]).exp()
        place = self.centres[node] + step
        mean = (probability[..., None] * place).sum(1)
        offset = (place - mean[:, None]) * probability.sqrt()[..., None]
        spread_roots = root * probability.sqrt()[..., None, None]
        covariance = offset.mT @ offset + (spread_roots.mT @ spread_roots).sum(1)
        moved = (weight + (slope @ step[..., None])[..., 0]) * probability.sqrt()[..., None]
        within = (spread_roots @ slope.mT).reshape(b, t * d, q)
        parts = torch.cat([moved, within], 1).float()
        deviation = (probability * ((scale - 1).square() + variance)).sum(1)
        average = ScaleIntegral.over(terms.cross[:, 0], terms.inner[:, 0, 0], spread).logit
        relative = torch.full((b, count), -torch.inf)
        relative[:, :t] = (logit - weighted.max(1, keepdim=True).values).float()
        node = torch.nn.functional.pad(node, (0, count - t))
        return CellPosterior(mean, covariance, parts.mT @ parts, node, relative, (probability * scale).sum(1),
                             deviation, evidence, average)  # fmt: skip

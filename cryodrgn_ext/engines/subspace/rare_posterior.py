"""Images compared with rare states: a volume that some have added to whatever else they show, the others not at all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from cryodrgn_ext.engines.subspace.grid import ComponentGrid, padded
from cryodrgn_ext.engines.subspace.posterior import Posterior, infer

ROUNDS = 40
LEAST_SHARPNESS = 1e-9


@dataclass(frozen=True)
class RareStates:
    """K rare states.

    Attributes
    ----------
    values : Tensor
        (V, 2, K) float32: what each adds to the volume, on the grid of a band.
    share : Tensor
        (K,) float64 of the images.
    offset, width : Tensor
        (K,) float64: the median of the scores (see :func:`compare`) of images without it, and their standard
        deviation, at least 1. Were the model perfect they would be 0 and 1.
    """

    values: Float32[Tensor, "V 2 K"]
    share: Float[Tensor, " K"]
    offset: Float[Tensor, " K"]
    width: Float[Tensor, " K"]

    def __len__(self) -> int:
        return len(self.share)

    @classmethod
    def none(cls, grid: ComponentGrid) -> RareStates:
        """No state."""
        empty = torch.zeros(0, dtype=torch.float64)
        return cls(torch.zeros(grid.n_voxels, 2, 0), empty, empty, empty)

    def joined(self, other: RareStates) -> RareStates:
        """These states and others."""
        return RareStates(
            torch.cat([self.values, other.values], dim=2),
            *(torch.cat([getattr(self, name), getattr(other, name)]) for name in ("share", "offset", "width")),
        )

    def beside(self, components: Float32[Tensor, "V 2 Qp"], n_columns: int) -> Float32[Tensor, "V 2 Qw"]:
        """(V, 2, Q'p): the first ``n_columns`` of ``components`` (V, 2, Qp), and the states in the next columns."""
        wide = components.new_zeros(*components.shape[:2], padded(n_columns + len(self)))
        wide[..., :n_columns] = components[..., :n_columns]
        wide[..., n_columns : n_columns + len(self)] = self.values.to(components)
        return wide

    def power(self, grid: ComponentGrid) -> Float64[Tensor, " K"]:
        """(K,) float64 sum over the whole sphere of the squared magnitude of each."""
        return (grid.multiplicity[:, None, None].double() * self.values.cpu().double().square()).sum((0, 1))


def shifted(
    inner: Float[Tensor, "B Q Q"], cross: Float[Tensor, "B Q"], n_columns: int, column: int, amount: float
) -> tuple[Float[Tensor, "B L L"], Float[Tensor, "B L"]]:
    """Inner products of the first columns when ``amount`` times another column is added to the first of them.

    Parameters
    ----------
    inner : Tensor
        (B, Q, Q) of all columns.
    cross : Tensor
        (B, Q) with the image.
    n_columns : int
        How many columns are left.
    column : int
        The one that is added.
    amount : float
    """
    out, along = inner[:, :n_columns, :n_columns].double().clone(), cross[:, :n_columns].double().clone()
    extra = amount * inner[:, :n_columns, column].double()
    out[:, 0, :] += extra
    out[:, :, 0] += extra
    out[:, 0, 0] += amount**2 * inner[:, column, column].double()
    along[:, 0] += amount * cross[:, column].double()
    return out, along


def compare(
    inner: Float[Tensor, "B Q Q"],
    cross: Float[Tensor, "B Q"],
    n_columns: int,
    column: int,
    common: Posterior,
    scale_spread: float,
) -> tuple[Float64[Tensor, " B"], Float64[Tensor, " B"], Posterior]:
    """How well images are described with a rare state added.

    The log likelihood, latents integrated out, is quadratic in the amount a of the state: a b - a^2 g / 2.

    Returns
    -------
    score : Tensor
        (B,) float64 b / sqrt(g): of mean 0 and variance 1 in images without the state, of mean sqrt(g) in those with.
    sharpness : Tensor
        (B,) sqrt(g).
    with_state : Posterior
        Of the latents of images that have it.
    """
    more, less = (infer(*shifted(inner, cross, n_columns, column, amount), scale_spread) for amount in (1.0, -1.0))
    sharpness = (2 * common.evidence - more.evidence - less.evidence).clamp_min(LEAST_SHARPNESS**2).sqrt()
    return 0.5 * (more.evidence - less.evidence) / sharpness, sharpness, more


def log_ratio(
    score: Float[Tensor, " N"], sharpness: Float[Tensor, " N"], offset: Tensor | float, width: Tensor | float
) -> Float[Tensor, " N"]:
    """Log likelihood of having the state less that of not having it, when scores scatter by ``width``."""
    return ((score - offset) * sharpness - 0.5 * sharpness.square()) / width**2


def share_of(ratio: Float[Tensor, " N"], most: float) -> tuple[float, float]:
    """Most likely share of images (N,) that have a state, at most ``most``, and the log likelihood that it gains."""
    ratio = ratio.clamp(-200, 200)
    share = torch.tensor(min(0.01, most), dtype=torch.float64)
    for _ in range(ROUNDS):
        share = torch.sigmoid(ratio + torch.logit(share, eps=1e-12)).mean().clamp(1e-9, most)
    gain = torch.logaddexp(torch.log1p(-share), torch.log(share) + ratio).sum()
    return float(share), float(gain)


def continuous_gain(score: Float[Tensor, " N"], sharpness: Float[Tensor, " N"], offset: float, width: float) -> float:
    """Log likelihood gained when images have normally distributed amounts of a state, of the best variance."""
    t, s2 = (score - offset) / width, (sharpness / width).square()
    best = 0.0
    for variance in torch.logspace(-4, 1, 41, dtype=torch.float64).tolist():
        spread = 1 + variance * s2
        best = max(best, float((0.5 * t.square() * (1 - 1 / spread) - 0.5 * spread.log()).sum()))
    return best


def infer_mixture(
    inner: Float[Tensor, "B Q Q"], cross: Float[Tensor, "B Q"], n_columns: int, states: RareStates, scale_spread: float
) -> tuple[Posterior, Float64[Tensor, "B K"]]:
    """Posterior of the latents, and the probability (B, K) float64 of each rare state.

    Parameters
    ----------
    inner : Tensor
        (B, Q + K, Q + K): the columns of the subspace, then those of the states.
    cross : Tensor
        (B, Q + K).
    n_columns : int
        Q.
    states : RareStates
    scale_spread : float
    """
    common = infer(inner[:, :n_columns, :n_columns], cross[:, :n_columns], scale_spread)
    posteriors, logs = [common], [(1 - states.share.sum()).clamp_min(1e-12).log().expand(len(inner)).to(common.mean)]
    for k in range(len(states)):
        score, sharpness, own = compare(inner, cross, n_columns, n_columns + k, common, scale_spread)
        ratio = log_ratio(score, sharpness, float(states.offset[k]), float(states.width[k]))
        posteriors.append(own)
        logs.append(ratio + float(states.share[k].log()))
    probability = torch.softmax(torch.stack(logs, dim=1), dim=1)
    mean, covariance = torch.zeros_like(common.mean), torch.zeros_like(common.covariance)
    particle_scale, variance, evidence = (torch.zeros_like(common.evidence) for _ in range(3))
    for p, own in zip(probability.unbind(1), posteriors, strict=True):
        mean += p[:, None] * own.mean
        particle_scale += p * own.particle_scale
        variance += p * own.scale_variance
        evidence += p * own.evidence
    for p, own in zip(probability.unbind(1), posteriors, strict=True):
        off = own.mean - mean
        covariance += p[:, None, None] * (own.covariance + off[:, :, None] * off[:, None, :])
        variance += p * (own.particle_scale - particle_scale).square()
    return Posterior(mean, covariance, particle_scale, evidence, variance), probability[:, 1:]

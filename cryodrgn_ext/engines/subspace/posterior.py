"""Latents of images in closed form, from inner products of their model terms (see :mod:`.kernels`).

With y = a (p_0 + sum_j z_j p_j) + n, complex noise of unit power, z ~ N(0, I) and the particle's scale a, the posterior
of z is Gaussian with precision I + 2 a^2 <p, p> and mean that precision's inverse times 2 a <p, y - a p_0>.

Scales are fitted under a normal prior about 1. By Fisher's identity the slope of the log likelihood with z integrated
out is the posterior mean of the slope at known z, 2 <y, m> - 2 a <m, m> for the model m; the curvature is the mean
curvature -2 <m, m> plus the posterior variance of that slope (Louis 1982). So each step of Newton's method takes one
posterior.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

SCALE_REACH = 4.0  # standard deviations of its prior that a particle's scale may be off 1
LEAST_SCALE = 0.05
SCALE_STEPS = 3  # of Newton's method; the log likelihood is nearly a parabola


@dataclass(frozen=True)
class Posterior:
    """Latents of a chunk of images.

    Attributes
    ----------
    mean : Tensor
        (B, q) float64.
    covariance : Tensor
        (B, q, q) float64.
    particle_scale : Tensor
        (B,) float64: how strongly the particle shows (less in thick ice), the likeliest; 1 where it is not fitted.
    evidence : Tensor
        (B,) float64: log likelihood with z and the scale integrated out (this by Laplace's method), less that of the
        image without any model.
    scale_variance : Tensor
        (B,) float64 of the particle scale.
    """

    mean: Float64[Tensor, "B q"]
    covariance: Float64[Tensor, "B q q"]
    particle_scale: Float64[Tensor, " B"]
    evidence: Float64[Tensor, " B"]
    scale_variance: Float64[Tensor, " B"]

    def moments(self) -> Float32[Tensor, "B Q Q"]:
        """(B, q + 1, q + 1) float32: second moments of (1, z)."""
        q = self.mean.shape[1]
        out = torch.empty(len(self.mean), q + 1, q + 1, dtype=torch.float32, device=self.mean.device)
        out[:, 0, 0] = 1.0
        out[:, 0, 1:] = out[:, 1:, 0] = self.mean.float()
        out[:, 1:, 1:] = (self.mean[:, :, None] * self.mean[:, None, :] + self.covariance).float()
        return out


@dataclass(frozen=True)
class _AtScale:
    """Posterior at given scales a: its moments, Cholesky factor of its precision, and log likelihood."""

    mean: Tensor
    factor: Tensor
    evidence: Tensor

    @classmethod
    def of(cls, inner: Tensor, cross: Tensor, scale: Tensor) -> _AtScale:
        a = scale[:, None]
        q = inner.shape[1] - 1
        identity = torch.eye(q, dtype=torch.float64, device=inner.device)
        precision = 2 * a[..., None] ** 2 * inner[:, 1:, 1:] + identity
        right = 2 * a * (cross[:, 1:] - a * inner[:, 0, 1:])
        factor, failed = torch.linalg.cholesky_ex(precision)
        if bool(failed.any()):  # sums in single precision of strong and nearly parallel components
            values, vectors = torch.linalg.eigh(precision[failed > 0])
            precision[failed > 0] = vectors @ (values.clamp_min(1)[..., None] * vectors.mT)
            factor = torch.linalg.cholesky(precision)
        mean = torch.cholesky_solve(right[..., None], factor)[..., 0]
        evidence = 0.5 * (right * mean).sum(1) - factor.diagonal(dim1=1, dim2=2).log().sum(1)
        evidence = evidence + 2 * scale * cross[:, 0] - scale**2 * inner[:, 0, 0]
        return cls(mean, factor, evidence)

    def slope(self, inner: Tensor, cross: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """First and (negative) second derivative (B,) of the log likelihood by the scale."""
        covariance = torch.cholesky_inverse(self.factor)
        weight = torch.cat([torch.ones_like(cross[:, :1]), self.mean], 1)
        pushed = (inner @ weight[..., None])[..., 0]
        spread = covariance @ inner[:, 1:, 1:]
        norm = (weight * pushed).sum(1) + spread.diagonal(dim1=1, dim2=2).sum(1)
        along = 2 * cross[:, 1:] - 4 * scale[:, None] * pushed[:, 1:]
        variance = (along * (covariance @ along[..., None])[..., 0]).sum(1)
        variance = variance + 8 * scale.square() * (spread * spread.mT).sum((1, 2))
        return 2 * ((weight * cross).sum(1) - scale * norm), 2 * norm - variance


def infer(inner: Float[Tensor, "B Q Q"], cross: Float[Tensor, "B Q"], scale_spread: float = 0.0) -> Posterior:
    """Posterior of each image's latent.

    Parameters
    ----------
    inner : Tensor
        (B, q + 1, q + 1) inner products of p_0..p_q.
    cross : Tensor
        (B, q + 1) inner products with the image.
    scale_spread : float
        Standard deviation of the prior of the particles' scales about 1; 0 where they are 1.
    """
    inner, cross = inner.double(), cross.double()
    scale, variance = torch.ones_like(cross[:, 0]), torch.zeros_like(cross[:, 0])
    found = _AtScale.of(inner, cross, scale)
    evidence = found.evidence
    if scale_spread > 0:
        tight = 1 / scale_spread**2
        low, high = max(LEAST_SCALE, 1 - SCALE_REACH * scale_spread), 1 + SCALE_REACH * scale_spread
        for _ in range(SCALE_STEPS):
            slope, bend = found.slope(inner, cross, scale)
            # No image makes its scale less certain than the prior: where the curve bends up, the step is short.
            variance = 1 / (bend.clamp_min(0) + tight)
            scale = (scale + (slope - tight * (scale - 1)) * variance).clamp(low, high)
            found = _AtScale.of(inner, cross, scale)
        variance = 1 / (found.slope(inner, cross, scale)[1].clamp_min(0) + tight)
        evidence = found.evidence - 0.5 * tight * (scale - 1).square() + 0.5 * (tight * variance).log()
    return Posterior(found.mean, torch.cholesky_inverse(found.factor), scale, evidence, variance)

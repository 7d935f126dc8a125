"""Latents of images in closed form, from inner products of their model terms (see :mod:`.kernels`).

With y = a (p_0 + sum_j z_j p_j) + n, complex noise of unit power, z ~ N(0, I) and the particle's scale a, the posterior
of z is Gaussian with precision I + 2 a^2 <p, p> and mean that precision's inverse times 2 a <p, y - a p_0>.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

SCALE_SPREAD = 0.3  # standard deviation of the prior of a particle's scale about 1
SCALE_RANGE = (0.3, 1.9)
SCALE_STEPS = 65


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
        (B,) float64: how strongly the particle shows (less in thick ice); 1 where it is not fitted.
    evidence : Tensor
        (B,) float64: log likelihood with z integrated out, less that of the image without any model.
    """

    mean: Float64[Tensor, "B q"]
    covariance: Float64[Tensor, "B q q"]
    particle_scale: Float64[Tensor, " B"]
    evidence: Float64[Tensor, " B"]

    def moments(self) -> Float32[Tensor, "B Q Q"]:
        """(B, q + 1, q + 1) float32: second moments of (1, z)."""
        q = self.mean.shape[1]
        out = torch.empty(len(self.mean), q + 1, q + 1, dtype=torch.float32, device=self.mean.device)
        out[:, 0, 0] = 1.0
        out[:, 0, 1:] = out[:, 1:, 0] = self.mean.float()
        out[:, 1:, 1:] = (self.mean[:, :, None] * self.mean[:, None, :] + self.covariance).float()
        return out


def infer(inner: Float[Tensor, "B Q Q"], cross: Float[Tensor, "B Q"], fit_contrast: bool = False) -> Posterior:
    """Posterior of each image's latent.

    Parameters
    ----------
    inner : Tensor
        (B, q + 1, q + 1) inner products of p_0..p_q.
    cross : Tensor
        (B, q + 1) inner products with the image.
    fit_contrast : bool
        Find each particle's scale (maximum of its evidence); else it is 1.
    """
    inner, cross = inner.double(), cross.double()
    particle_scale = _particle_scale(inner, cross) if fit_contrast else torch.ones_like(cross[:, 0])
    a = particle_scale[:, None]
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
    evidence = evidence + 2 * particle_scale * cross[:, 0] - particle_scale**2 * inner[:, 0, 0]
    return Posterior(mean, torch.cholesky_inverse(factor), particle_scale, evidence)


def _particle_scale(inner: Tensor, cross: Tensor) -> Tensor:
    """Scale (B,) of greatest evidence times its prior, on a grid refined by a parabola.

    In the eigenvectors of <p, p> the evidence of every scale is a sum over components.
    """
    values, vectors = torch.linalg.eigh(inner[:, 1:, 1:])
    along = (vectors.mT @ cross[:, 1:, None])[..., 0]
    offset = (vectors.mT @ inner[:, 1:, :1])[..., 0]
    low, high = SCALE_RANGE
    grid = torch.linspace(low, high, SCALE_STEPS, dtype=torch.float64, device=inner.device)
    scores = torch.empty(len(inner), SCALE_STEPS, dtype=torch.float64, device=inner.device)
    for i, a in enumerate(grid):
        precision = 1 + 2 * a * a * values.clamp_min(0)
        right = 2 * a * (along - a * offset)
        scores[:, i] = (0.5 * right.square() / precision - 0.5 * precision.log()).sum(1)
        scores[:, i] += 2 * a * cross[:, 0] - a * a * inner[:, 0, 0] - 0.5 * ((a - 1) / SCALE_SPREAD) ** 2
    best = scores.argmax(1).clamp(1, SCALE_STEPS - 2)
    left, here, right = (scores.gather(1, (best + s)[:, None])[:, 0] for s in (-1, 0, 1))
    bend = (left - 2 * here + right).clamp_max(-1e-12)
    step = (0.5 * (left - right) / bend).clamp(-1, 1)
    return grid[best] + step * (grid[1] - grid[0])

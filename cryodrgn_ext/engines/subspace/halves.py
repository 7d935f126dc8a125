"""Components of the two half-sets that share nothing but what is real.

A step of EM goes from the present components, which both half-sets have made. A half-set's own solution therefore
agrees with the other's even in pure noise, for two reasons, each of which can be undone:

* The step of a voxel majorises the coupling of neighbours by trilinear weights. A map's step is thereby too short by
  the transform of those weights, e(x) = prod over axes of (2 + cos(2 pi x / D)) / 3.
* An image's noise moves its latent, and along it the noise goes back into the components. With posterior mean m and
  covariance G of the latents, the sum over images of A^T y m^T has, by noise alone, the mean A^T A P G.

Without these shares, regression on the latents reads: sum of A^T A P' (I - G) = sum of A^T y m^T - A^T A P G, whose
mean is the truth where the components are, and nothing in noise. As EM took its step s with latents of unit second
moments (:func:`cryodrgn_ext.engines.subspace.em.whiten`), P' = P + s / e (I - G)^-1. Where components fit noise, second
moments come out above one; leaving that out of account makes P' smaller, on the safe side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from cryodrgn_ext.engines.subspace.decoder import resampled
from cryodrgn_ext.engines.subspace.grid import ComponentGrid

BALL = 0.42  # of the box: components are compared within, where e is not small
LEAST_INFORMATION = 1e-3


@dataclass(frozen=True)
class Halves:
    """Components (V, 2, Qp) of half-sets 1 and 2."""

    first: Float32[Tensor, "V 2 Qp"]
    second: Float32[Tensor, "V 2 Qp"]

    def agreement(self, grid: ComponentGrid, n_columns: int) -> Float64[Tensor, " Q"]:
        """Correlation (Q,) float64 of each component between half-sets; 0 where there is nothing to compare."""
        weight = grid.multiplicity.to(self.first.device)[:, None, None].double()
        a, b = self.first[..., :n_columns].double(), self.second[..., :n_columns].double()
        shared, own1, own2 = ((weight * p).sum((0, 1)) for p in (a * b, a * a, b * b))
        largest = torch.maximum(own1, own2).max()
        product = (own1 * own2).sqrt()
        seen = product > 1e-12 * largest
        return torch.where(seen, shared / torch.where(seen, product, 1.0), 0.0).cpu()


def interpolation_falloff(box_size: int) -> Float[Tensor, "D D D"]:
    """(D, D, D) e(x), by which a step that majorises the coupling of neighbours is too short in real space."""
    position = torch.arange(box_size) / box_size - 0.5
    hat = (2 + torch.cos(2 * math.pi * position)) / 3
    return hat[:, None, None] * hat[:, None] * hat


def independent_halves(
    grid: ComponentGrid,
    present: Float32[Tensor, "V 2 Qp"],
    half1: Float32[Tensor, "V 2 Qp"],
    half2: Float32[Tensor, "V 2 Qp"],
    covariance: Float64[Tensor, "q q"],
    masks: tuple[Tensor, Tensor] | None = None,
) -> Halves:
    """Undo what both half-sets' steps owe to the components that they started from.

    Parameters
    ----------
    grid : ComponentGrid
    present : Tensor
        (V, 2, Qp) components before the step.
    half1, half2 : Tensor
        (V, 2, Qp) after each half-set's own step without a prior.
    covariance : Tensor
        (q, q) float64 posterior covariance G of the latents, averaged over images.
    masks : tuple of Tensor, optional
        (D, D, D) of the first component, and of all others: regions that they are held to.

    Returns
    -------
    Halves
        Within a ball about the centre of the box.
    """
    q = len(covariance)
    values, vectors = torch.linalg.eigh(0.5 * (covariance + covariance.T))
    longer = (vectors / (1 - values).clamp_min(LEAST_INFORMATION)) @ vectors.T
    small = grid.coarse
    position = torch.arange(small.box_size) / small.box_size - 0.5
    norm2 = position[:, None, None] ** 2 + position[:, None] ** 2 + position**2
    ball = (norm2 <= BALL**2).float().to(present.device)
    first, others = (ball, ball) if masks is None else (ball * resampled(m, small.box_size).to(ball) for m in masks)
    longer_in_space = 1 / interpolation_falloff(small.box_size).to(present.device)
    out = []
    for half in (half1, half2):
        step = (half - present)[..., : q + 1].double()
        step[..., 1:] = step[..., 1:] @ longer.to(step)
        whole = torch.zeros_like(present)
        for j in range(q + 1):
            map_ = small.to_map(present[..., j].contiguous())
            map_ += small.to_map(step[..., j].float().contiguous()) * longer_in_space
            whole[..., j] = small.from_map(map_ * (others if j else first))
        out.append(whole)
    return Halves(*out)

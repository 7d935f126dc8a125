"""Scale of the particle in each image (thickness of the ice): a Gaussian about 1 of a width that images tell.

An image that is brighter than the model would otherwise prefer poses of which the model is bright, and a dim one
others. With x the product of image and expected image, and y the expected power, a pose has the log-likelihood
s x - s² y / 2 at the scale s, and with the prior's precision L at its best scale (x + L) / (y + L)

    x - y / 2 + (x - y)² / (2 (y + L)),

which is the plain one when images tell nothing (y << L), and the correlation x² / (2 y) when the prior does not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from cryodrgn_ext.images.particle_images import ParticleImages

#: Standard deviation of the scale before anything is known of it, about that of particles in ice of usual thickness.
FIRST_SPREAD = 0.25
#: Spreads below this are none: a scale wrong by so much costs an image less than a thousandth of its log-likelihood.
LEAST_SPREAD = 0.03


def precision_of(images: ParticleImages, spread: float) -> float | None:
    """Precision of the prior; None when all scales are 1, as those of images without CTF are taken to be."""
    return None if images.ctf_parameters is None or spread < LEAST_SPREAD else spread**-2


def at_best_scale_(product: Tensor, power: Tensor, precision: float | None) -> Tensor:
    """Turn products x into log-likelihoods at the best scale from 0 on, in place; ``power`` y broadcasts to them."""
    if precision is None:
        return product.sub_(power, alpha=0.5)
    product.clamp_(min=-precision).add_(precision)
    return product.square_().mul_(0.5 / (power + precision)).sub_(0.5 * precision)


@dataclass(frozen=True)
class ParticleScale:
    """Scales of n images at given poses.

    Attributes
    ----------
    mean, error : Tensor
        (n,) float64 of the posterior.
    penalty : Tensor
        (n,) float64 nats that the prior takes for the mean.
    """

    mean: Float[Tensor, " n"]
    error: Float[Tensor, " n"]
    penalty: Float[Tensor, " n"]

    @classmethod
    def one(cls, n: int) -> ParticleScale:
        """All scales are 1."""
        none = torch.zeros(n, dtype=torch.float64)
        return cls(none + 1, none, none)

    @classmethod
    def of(cls, product: Float[Tensor, " n"], power: Float[Tensor, " n"], precision: float) -> ParticleScale:
        """By products and powers (n,) as above."""
        total = power.double() + precision
        mean = ((product.double() + precision) / total).clamp_min(0.0)
        return cls(mean, total.rsqrt(), 0.5 * precision * (mean - 1).square())


def spread_of(mean: Float[Tensor, " n"], error: Float[Tensor, " n"]) -> float:
    """Width of the prior by which posteriors (n,) are likeliest: one step of expectation maximisation."""
    return float(((mean - mean.mean()).square() + error.square()).mean().sqrt())


def with_scales(images: ParticleImages, scale: Float[Tensor, " N"]) -> ParticleImages:
    """The same images, of which more or less of the particle is expected, by ``scale`` (N,)."""
    parameters = images.ctf_parameters
    if parameters is None or bool((scale == 1).all()):
        return images
    return replace(images, ctf_parameters=replace(parameters, scale=parameters.scale * scale.to(parameters.scale)))

"""Latents of the vae architecture by Gauss-Newton steps on each image's own posterior, from the encoder's guess.

An encoder is amortised: it has to answer for all images with one network, and its diagonal Gaussian is wider and less
exact than the posterior that the decoder implies. The decoder's derivative by the latent (q forward passes over the
latent band) gives the normal equations of the linearised image model, as in the separable architecture, and with them
the mode and its Laplace covariance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cryodrgn_ext.engines.neural.layers import ResidualLayer, to_half_space
from cryodrgn_ext.engines.neural.model import Observation
from cryodrgn_ext.engines.neural.vae import VaeModel

FRACTIONS = (1.0, 0.5, 0.25, 0.125)
CHUNK_NUMBERS = 1 << 22  # of the derivative's activations at a time


@dataclass(frozen=True)
class _Image:
    """One image's latent band: features (M, F), gain (M, 2) of real and imaginary part, data (M, 2)."""

    features: Tensor
    gain: Tensor
    data: Tensor


@torch.no_grad()
def refine(
    model: VaeModel, observation: Observation, z: Float[Tensor, "B q"], steps: int
) -> tuple[Float[Tensor, "B q"], Float[Tensor, "B q q"]]:
    """Mode (B, q) and Laplace covariance (B, q, q) by at most ``steps`` Gauss-Newton steps from ``z`` (B, q).

    A step that does not lower the negative log posterior is halved up to three times, and else not taken.
    """
    n = observation.n_latent
    points = observation.points[:, :n]
    half, flipped = to_half_space(points)
    gain = observation.whitened_ctf[:, :n] * model.magnitude(points)
    gains = torch.stack([gain, torch.where(flipped, -gain, gain)], -1)
    data = torch.view_as_real(observation.values[:, :n])
    found = [
        _gauss_newton(model, _Image(model.features(half[i]), gains[i], data[i]), guess, steps)
        for i, guess in enumerate(z.float())
    ]
    return torch.stack([mode for mode, _ in found]), torch.stack([covariance for _, covariance in found])


def _gauss_newton(model: VaeModel, image: _Image, z: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    value, precision, descent = _normal_equations(model, image, z)
    for _ in range(steps):
        move = torch.linalg.solve(precision, descent)
        for fraction in FRACTIONS:
            new = _normal_equations(model, image, z + fraction * move)
            if bool(new[0] < value):
                z = z + fraction * move
                value, precision, descent = new
                break
        else:
            break
    return z, torch.linalg.inv(precision)


def _normal_equations(model: VaeModel, image: _Image, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Negative log posterior (), its Gauss-Newton Hessian (q, q) and its descent (q,) at a latent (q,)."""
    weight = model.kl_weight
    value = 0.5 * weight * z.square().sum()
    precision = weight * torch.eye(len(z), device=z.device)
    descent = -weight * z
    width = next(module for module in model.decoder if isinstance(module, nn.Linear)).out_features
    rows = max(1, CHUNK_NUMBERS // (width * max(len(z), 1)))
    for features, gain, data in zip(
        image.features.split(rows), image.gain.split(rows), image.data.split(rows), strict=True
    ):
        output, slope = decoder_slope(model.decoder, features, z)
        rest = (data - gain * output).flatten()
        basis = (gain[..., None] * slope).flatten(0, 1)
        value = value + rest.square().sum()
        precision = precision + 2.0 * basis.T @ basis
        descent = descent + 2.0 * basis.T @ rest
    return value, precision, descent


def decoder_slope(
    decoder: nn.Sequential, features: Float[Tensor, "M F"], z: Float[Tensor, " q"]
) -> tuple[Float[Tensor, "M 2"], Float[Tensor, "M 2 q"]]:
    """Output (M, 2) of a residual decoder and its derivative (M, 2, q) by the latent, differentiated forward.

    Parameters
    ----------
    decoder : nn.Sequential
        Of :func:`~cryodrgn_ext.engines.neural.layers.residual_mlp`, features (M, F) and latent (q,) in.
    features, z : Tensor
    """
    of_sums = any(m.of_sums for m in decoder if isinstance(m, ResidualLayer))
    linears = [m.linear if isinstance(m, ResidualLayer) else m for m in decoder]
    first, *middle, last = (m for m in linears if isinstance(m, nn.Linear))
    latent_weight = first.weight[:, features.shape[1] :]
    x = functional.relu(
        functional.linear(features, first.weight[:, : features.shape[1]], first.bias + latent_weight @ z)
    )
    slope = (x > 0) * latent_weight.T[:, None, :]
    for layer in middle:
        change, changed = layer(x), slope @ layer.weight.T
        if of_sums:
            x = functional.relu(x + change)
            slope = (x > 0) * (slope + changed)
        else:
            slope = slope + (change > 0) * changed
            x = x + functional.relu(change)
    return last(x), (slope @ last.weight.T).permute(1, 2, 0)

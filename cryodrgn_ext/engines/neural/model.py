"""Common side of the two architectures of the neural engine, as the trainer and the renderer see it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex, Float, Float32, Int64
from torch import Tensor, nn


@dataclass(frozen=True)
class Observation:
    """A batch of images as a network sees it.

    Attributes
    ----------
    values : Tensor
        (B, M) complex64: whitened, centred coefficients, less CTF x slice of the volumes that are known already in
        residual learning. The noise of each has E|n|^2 = 1.
    whitened_ctf : Tensor
        (B, M) float32: CTF over the noise's standard deviation, so that values ~ whitened_ctf * V(points).
    points : Tensor
        (B, M, 3) float32, cycles per box.
    shell : Tensor
        (M,) int64: shell of each coefficient in the image.
    weight : Tensor
        (M,) float32: how many coefficients of the training band each stands for (1, or more where a random choice
        represents the high band).
    n_latent : int
        The first so many coefficients inform the latent.
    inputs : Tensor, optional
        (B, m) what the network's volumes are a function of, where that is known before training.
    """

    values: Complex[Tensor, "B M"]
    whitened_ctf: Float[Tensor, "B M"]
    points: Float[Tensor, "B M 3"]
    shell: Int64[Tensor, " M"]
    weight: Float[Tensor, " M"]
    n_latent: int
    inputs: Float[Tensor, "B m"] | None = None

    def images(self, start: int, stop: int) -> Observation:
        """Some images of the batch, without copying."""
        rows = slice(start, stop)
        return replace(
            self, values=self.values[rows], whitened_ctf=self.whitened_ctf[rows], points=self.points[rows],
            inputs=None if self.inputs is None else self.inputs[rows],
        )  # fmt: skip


@dataclass(frozen=True)
class LossTerms:
    """Loss of a batch, per image and in nats: ``total`` is what is minimised."""

    total: Tensor
    reconstruction: Tensor
    kl: Tensor


class VolumeModel(nn.Module, ABC):
    """A distribution over volumes in Fourier space with a latent variable of q dimensions.

    Parameters
    ----------
    zdim : int
        q.
    envelope : Tensor
        (S,) expected magnitude of the learned signal per shell, which the networks' outputs are multiplied by, so
        that they are of order one in every shell.
    """

    envelope: Float32[Tensor, " S"]

    def __init__(self, zdim: int, envelope: Float[Tensor, " S"]) -> None:
        super().__init__()
        self.zdim = zdim
        self.network_dtype = torch.float32
        self.register_buffer("envelope", envelope)

    def network_arithmetic(self, device: torch.device) -> torch.autocast:
        """Context for the large matrix products of the networks, and for nothing else, in ``network_dtype``."""
        enabled = self.network_dtype != torch.float32
        return torch.autocast(device.type, dtype=self.network_dtype if enabled else torch.bfloat16, enabled=enabled)

    def magnitude(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
        """(...) envelope at points (..., 3), interpolated between shells, 0 beyond the last."""
        radius = points.norm(dim=-1)
        low = radius.floor().long()
        last = len(self.envelope) - 1
        fraction = radius - low
        below, above = self.envelope[low.clamp(max=last)], self.envelope[(low + 1).clamp(max=last)]
        inside = below + (above - below) * fraction
        return torch.where(radius <= last + 0.5, inside, torch.zeros_like(inside))

    @abstractmethod
    def loss(self, observation: Observation, noise: Float[Tensor, "B q"], linear: bool) -> LossTerms:
        """Training loss, mean over images, with standard normal ``noise`` (B, q) for the sample of the latent.

        ``linear`` asks a model that has one for its linear first stage.
        """

    @abstractmethod
    def posterior(self, observation: Observation) -> tuple[Float[Tensor, "B q"], Float[Tensor, "B q q"]]:
        """Latent mean (B, q) and covariance (B, q, q) of each image."""

    @abstractmethod
    def decode(self, points: Float[Tensor, "P 3"], z: Float[Tensor, "K q"]) -> Complex[Tensor, "K P"]:
        """Give the same as :meth:`spectrum`, differentiable with respect to the model's parameters."""

    @torch.no_grad()
    def spectrum(self, points: Float[Tensor, "P 3"], z: Float[Tensor, "K q"]) -> Complex[Tensor, "K P"]:
        """Fourier coefficients (K, P) complex64 of the volumes at latents (K, q), at points (P, 3)."""
        return self.decode(points, z)

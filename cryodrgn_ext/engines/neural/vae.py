r"""The published architecture: an image encoder and a coordinate decoder, trained as a variational autoencoder.

The encoder q(z | X) is a perceptron with residual layers over the centred, phase-flipped Fourier coefficients of the
image (Zhong 2022, 3.6), with a diagonal Gaussian as its output; the decoder is one over Fourier features of a
coordinate and the latent (3.1.1, 4.2.1). The loss is the evidence lower bound (eq. 3.5) with whitened noise. Poses are
given.

Advantages: any manifold of volumes; papers can be reproduced. Limitations: every coefficient of every image costs a
pass through the decoder, and the encoder has to learn to be invariant to pose, which takes many epochs.

``domain="complex"`` evaluates the decoder once per pair k, -k, and reads real and imaginary part from two outputs, as
cryoDRGN does by default; ``"hartley"`` evaluates it at both and combines the two real values: H(k) = Re F(k) - Im F(k).
"""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from cryodrgn_ext.engines.neural.layers import FourierFeatures, residual_mlp, to_half_space
from cryodrgn_ext.engines.neural.model import LossTerms, Observation, VolumeModel
from cryodrgn_ext.engines.neural.tiled import WorkerThreads, tiled_error


class VaeModel(VolumeModel):
    """See the module's text; with q = 0 there is no encoder and the decoder is one homogeneous volume.

    Parameters
    ----------
    zdim : int
        q, may be 0.
    envelope : Tensor
        (S,) magnitude per shell.
    frequencies : Tensor
        (F, 3) of the Fourier features.
    n_encoder : int
        Number of coefficients that the encoder sees; 0 when there is none (latents in a table).
    encoder_shape, decoder_shape : (layers, width)
        Of the two networks.
    domain : str
        ``complex`` or ``hartley``.
    kl_weight : float
        Weight of the divergence.
    of_sums : bool
        Form of the residual layers, see :class:`~cryodrgn_ext.engines.neural.layers.ResidualLayer`.
    """

    def __init__(  # noqa: PLR0913 (what describes two networks)
        self,
        zdim: int,
        envelope: Tensor,
        frequencies: Tensor,
        n_encoder: int,
        encoder_shape: tuple[int, int],
        decoder_shape: tuple[int, int],
        domain: str,
        kl_weight: float,
        of_sums: bool = False,
    ) -> None:
        super().__init__(zdim, envelope)
        self.of_sums = of_sums
        self.kl_weight = kl_weight
        self.hartley = domain == "hartley"
        self.n_encoder = n_encoder
        self.tiled = not self.hartley  # on the CPU; switched off, the loss takes the plain path, its oracle
        self._workers: WorkerThreads | None = None
        self.features = FourierFeatures(frequencies)
        outputs = 1 if self.hartley else 2
        self.decoder = residual_mlp(self.features.width + zdim, decoder_shape[1], decoder_shape[0], outputs, of_sums)
        self.encoder: nn.Sequential | None = None
        if zdim and n_encoder:
            self._make_encoder(*encoder_shape)

    def _make_encoder(self, layers: int, width: int) -> None:
        self.encoder = residual_mlp(2 * self.n_encoder, width, layers, 2 * self.zdim, self.of_sums)

    def _network(self, points: Tensor, z: Tensor) -> Tensor:
        """Raw decoder output (..., outputs) at points (..., 3) with latents (..., q) that broadcast."""
        features = self.features(points)
        if self.zdim:
            features = torch.cat([features, z.expand(*features.shape[:-1], self.zdim)], dim=-1)
        with self.network_arithmetic(points.device):
            output: Tensor = self.decoder(features)
        return output.float()

    def _decode(self, points: Tensor, z: Tensor, gain: Tensor) -> Tensor:
        """Complex values (...) at points, times gain."""
        if self.hartley:
            plus = self._network(points, z)[..., 0]
            minus = self._network(-points, z)[..., 0]
            return torch.complex((plus + minus) / 2 * gain, (minus - plus) / 2 * gain)
        half, flipped = to_half_space(points)
        real, imaginary = self._network(half, z).unbind(-1)
        return torch.complex(real * gain, torch.where(flipped, -imaginary, imaginary) * gain)

    def encode(self, observation: Observation) -> tuple[Float[Tensor, "B q"], Float[Tensor, "B q"]]:
        """Mean and log variance of the latents, (B, q) each."""
        if self.encoder is None:
            raise RuntimeError("this model has no encoder: it is homogeneous, or its latents are in a table")
        n = self.n_encoder
        flipped = observation.values[:, :n] * torch.sign(observation.whitened_ctf[:, :n])
        with self.network_arithmetic(flipped.device):
            output = self.encoder(torch.view_as_real(flipped).flatten(1))
        mean, log_variance = output.float().chunk(2, dim=1)
        return mean, log_variance

    def loss(self, observation: Observation, noise: Float[Tensor, "B q"], linear: bool) -> LossTerms:
        """Evidence lower bound with one sample per image (Zhong 2022, eq. 3.5)."""
        if not self.zdim:
            return self.decoder_loss(observation, noise)
        mean, log_variance = self.encode(observation)
        return self.sampled_loss(observation, mean, log_variance, noise)

    def sampled_loss(
        self,
        observation: Observation,
        mean: Float[Tensor, "B q"],
        log_variance: Float[Tensor, "B q"],
        noise: Float[Tensor, "B q"],
    ) -> LossTerms:
        """The bound for given moments (B, q) of the posterior."""
        terms = self.decoder_loss(observation, mean + noise * (0.5 * log_variance).exp())
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        return LossTerms(terms.reconstruction + self.kl_weight * kl, terms.reconstruction, kl)

    def decoder_loss(self, observation: Observation, z: Float[Tensor, "B q"]) -> LossTerms:
        """Negative log likelihood of the images at latents ``z`` (B, q), mean over images."""
        gain = observation.whitened_ctf * self.magnitude(observation.points)
        if self.tiled and gain.device.type == "cpu":
            half, flipped = to_half_space(observation.points)
            if self._workers is None or not self._workers.fits(self.network_dtype, len(z)):
                self.release()
                self._workers = WorkerThreads(self.decoder, self.features.width, self.network_dtype, len(z))
            reconstruction = tiled_error(
                self.features, self.decoder, half, flipped, z, observation.values, gain, observation.weight,
                self._workers,
            ) / len(z)  # fmt: skip
        else:
            error = observation.values - self._decode(observation.points, z[:, None], gain)
            reconstruction = ((error.real.square() + error.imag.square()) @ observation.weight).mean()
        return LossTerms(reconstruction, reconstruction, torch.zeros((), device=gain.device))

    def release(self) -> None:
        """End the threads and give back the memory of the training."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    @torch.no_grad()
    def posterior(self, observation: Observation) -> tuple[Float[Tensor, "B q"], Float[Tensor, "B q q"]]:
        """The encoder's mean and diagonal covariance."""
        if not self.zdim:
            empty = torch.zeros(len(observation.values), 0)
            return empty, empty[:, :, None]
        mean, log_variance = self.encode(observation)
        return mean, torch.diag_embed(log_variance.exp())

    @torch.no_grad()
    def values(self, points: Tensor, z: Tensor) -> Tensor:
        """Fourier coefficients (...) complex64 at points (..., 3), with latents (..., q) that broadcast."""
        return self._decode(points, z, self.magnitude(points))

    def decode(self, points: Float[Tensor, "P 3"], z: Float[Tensor, "K q"]) -> Complex[Tensor, "K P"]:
        """One decoder pass per volume."""
        gain = self.magnitude(points)
        return torch.stack([self._decode(points, row, gain) for row in z])

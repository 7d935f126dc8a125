"""Batches as the networks see them: which coefficients inform the latents, which are trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64, Integer
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.engines.neural.base_volumes import BaseVolumes
from cryodrgn_ext.engines.neural.model import Observation
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.dataset import ParticleImages

SAMPLE_IMAGES = 1000  # enough for averages over images
LATENT_INFORMATION = 0.97
MAX_LATENT_COEFFICIENTS = 8192
MIN_LATENT_RADIUS = 6
ENVELOPE_FRACTION = 0.3  # of the consensus: how far states differ from it, as a start
ENVELOPE_FLOOR = 1e-3


@dataclass(frozen=True)
class Bands:
    """Radii in cycles per box: of the coefficients that inform the latents, and of those that are trained on."""

    latent_radius: int
    train_radius: int


@dataclass(frozen=True)
class ObservationSource:
    """Makes :class:`Observation` batches from images, less what explains them already where that is given.

    Attributes
    ----------
    images : ParticleImages
    base : BaseVolumes or None
        Of these images, on the training device, in residual learning.
    bands : Bands
    device : torch.device
    """

    images: ParticleImages
    base: BaseVolumes | None
    bands: Bands
    device: torch.device

    @property
    def n_latent(self) -> int:
        """Number of coefficients that inform the latents."""
        return self.images.plane.prefix(self.bands.latent_radius)

    @property
    def n_train(self) -> int:
        """Number of coefficients in the training band."""
        return self.images.plane.prefix(self.bands.train_radius)

    def latent(self, indices: Integer[Tensor, " B"]) -> Observation:
        """Only what informs the latents."""
        return self.observe(indices, self.n_latent, None)

    def draw(self, generator: torch.Generator) -> Int64[Tensor, " m"] | None:
        """Choose as many coefficients again as inform the latents from the rest of the training band.

        The drawn ones carry the weight of the whole rest, so that the loss keeps its expectation at a fraction of
        the cost; the rest carries little signal per coefficient. None when the rest is no larger than that.
        """
        rest = self.n_train - self.n_latent
        if rest <= self.n_latent:
            return None
        return (torch.randperm(rest, generator=generator)[: self.n_latent] + self.n_latent).sort().values

    def observe(self, indices: Integer[Tensor, " B"], count: int, drawn: Int64[Tensor, " m"] | None) -> Observation:
        """Images ``indices``: their first ``count`` coefficients, or of these the latent band and the ``drawn``."""
        batch = self.images.batch(indices, count, self.device)
        values, whitened_ctf, points = batch.coefficients, batch.ctf, batch.points
        shell = self.images.plane.shell[:count].to(self.device)
        weight = torch.ones(count, device=self.device)
        if drawn is not None:
            columns = torch.cat([torch.arange(self.n_latent), drawn]).to(self.device)
            values, whitened_ctf, points = values[:, columns], whitened_ctf[:, columns], points[:, columns]
            shell, weight = shell[columns], weight[columns]
            weight[self.n_latent :] = (count - self.n_latent) / len(drawn)
        if self.base is None:
            return Observation(values, whitened_ctf, points, shell, weight, self.n_latent)
        values = values - whitened_ctf * self.base.slices(indices, points)
        inputs = self.base.inputs(indices)
        inputs = None if inputs is None else inputs.to(self.device)
        return Observation(values, whitened_ctf, points, shell, weight, self.n_latent, inputs)


def _sample(images: ParticleImages) -> Tensor:
    return torch.linspace(0, images.n - 1, min(images.n, SAMPLE_IMAGES)).round().long()


def choose_bands(
    images: ParticleImages,
    base: FourierVolume | None,
    latent_resolution_A: float | None,
    consensus_radius: int | None,
) -> Bands:
    """Choose how far out images inform the latents and the decoder is trained.

    The latent band ends where ``LATENT_INFORMATION`` of ``sum over coefficients of (SNR / (1 + SNR))^2`` is reached,
    with the consensus as the signal: the square, because shells far below the noise cost as much computing as others
    and tell next to nothing about one image. The decoder is trained up to the resolution of the consensus.

    Parameters
    ----------
    images : ParticleImages
    base : FourierVolume or None
        Consensus; without it all coefficients are used for both.
    latent_resolution_A : float, optional
        The user's choice.
    consensus_radius : int, optional
        Shell up to which the consensus carries signal.
    """
    limit = images.plane.radius
    train = limit if consensus_radius is None else min(limit, max(consensus_radius, MIN_LATENT_RADIUS))
    if latent_resolution_A is not None:
        latent = round(images.box_size * images.pixel_size_A / latent_resolution_A)
    elif base is None:
        latent = train
    else:
        power = torch.zeros(limit + 1, dtype=torch.float64)
        count = torch.bincount(images.plane.shell, minlength=limit + 1)[: limit + 1].double()
        sample = _sample(images)
        for rows in sample.split(64):
            batch = images.batch(rows, None, base.data.device)
            signal = (batch.ctf * base.slice(batch.points)).abs().square().sum(0).cpu().double()
            power.index_add_(0, images.plane.shell, signal)
        snr = power / count.clamp(min=1) / len(sample)
        information = (count * (snr / (1 + snr)).square())[1 : train + 1]
        reached = torch.cumsum(information, 0) >= LATENT_INFORMATION * information.sum()
        latent = int(reached.nonzero()[0, 0]) + 1 if bool(reached.any()) else train
        while latent > MIN_LATENT_RADIUS and images.plane.prefix(latent) > MAX_LATENT_COEFFICIENTS:
            latent -= 1
    return Bands(max(min(latent, train), min(MIN_LATENT_RADIUS, train)), train)


def signal_envelope(
    images: ParticleImages, consensus: NDArray[np.float32] | None, train_radius: int
) -> Float32[Tensor, " S"]:
    """Expected magnitude of what the network learns, per shell 0..train_radius.

    With a consensus, a fraction of its root mean square in each shell. Without, the noise level in every shell: then
    outputs of order one make images of order one, as with images standardised to unit variance.
    """
    if consensus is None:
        level = images.noise_sigma[:, 1 : train_radius + 1].mean()
        return torch.full((train_radius + 1,), float(level))
    d = images.box_size
    spectrum = torch.fft.rfftn(torch.as_tensor(consensus, dtype=torch.float32))
    k = torch.fft.fftfreq(d, 1 / d)
    kx = torch.arange(d // 2 + 1, dtype=torch.float32)
    shell = (k[:, None, None] ** 2 + k[None, :, None] ** 2 + kx**2).sqrt().round().long().flatten()
    inside = shell <= train_radius
    power = torch.bincount(shell[inside], spectrum.abs().square().flatten()[inside].double())
    power = power / torch.bincount(shell[inside])
    envelope = ENVELOPE_FRACTION * power.sqrt().float()
    return envelope.clamp(min=ENVELOPE_FLOOR * float(envelope.max()))

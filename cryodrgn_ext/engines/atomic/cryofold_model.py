"""Cryofold's model: a sum of Gaussians whose centres an image's latent moves, and its loss.

Zhong 2022, 7.3: V(z) = sum over Gaussians of a0 Z_i exp(-|r - mu_i - D_i(z)|^2 / 2 sigma^2), with the electrons Z_i,
one width and one amplitude for all; z from an image encoder. Images are compared in Fourier space, where the sections
of Gaussians are exact. The loss (eq. 7.3) is the squared error of an image's pixels in units of their noise, plus the
restraints; with latents, plus their divergence from a normal distribution.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from cryodrgn_ext.engines.atomic.coarse_chain import CoarseChain
from cryodrgn_ext.engines.atomic.fold_batch import FoldBatch
from cryodrgn_ext.engines.neural.layers import residual_mlp
from cryodrgn_ext.fourier.gaussians import gaussian_sections
from cryodrgn_ext.images.particle_images import ParticleImages

#: Width that the fit begins with, Å (Zhong 2022, 7.4).
FIRST_WIDTH_A = 3.71
#: Of the decoder's last weights against usual ones: offsets begin near 0, and yet pass gradients on.
FIRST_OFFSETS = 0.01


class CryofoldModel(nn.Module):
    """Centres, width, amplitude and networks.

    Parameters
    ----------
    chain : CoarseChain
    images : ParticleImages
        What is fitted: its box, pixel size and frequencies.
    radius : int
        Highest frequency, cycles per box.
    zdim : int
        0 for one structure.
    encoder : bool
        Whether latents come from images.
    shape : (int, int)
        Hidden layers and their width.
    """

    kxy: Tensor

    def __init__(
        self, chain: CoarseChain, images: ParticleImages, radius: int, zdim: int, encoder: bool, shape: tuple[int, int]
    ) -> None:
        super().__init__()
        self.chain, self.zdim = chain, zdim
        self.box_size, self.pixel_size_A = images.box_size, images.pixel_size_A
        self.register_buffer("kxy", images.plane.kxy[1 : images.plane.prefix(radius)], persistent=False)
        self.centres = nn.Parameter(chain.base_A.clone())
        self.log_width_A = nn.Parameter(torch.tensor(math.log(FIRST_WIDTH_A)))
        self.log_amplitude = nn.Parameter(torch.zeros(()))
        self.encoder: nn.Sequential | None = None
        self.decoder: nn.Sequential | None = None
        if zdim and encoder:
            self.encoder = residual_mlp(2 * len(self.kxy), shape[1], shape[0], 2 * zdim)
        if zdim:
            self.decoder = residual_mlp(zdim, shape[1], shape[0], chain.base_A.numel())
            with torch.no_grad():
                for parameter in self.decoder[-1].parameters():
                    parameter.mul_(FIRST_OFFSETS)

    def positions(self, z: Float[Tensor, "B q"] | None = None) -> Float[Tensor, "B G 3"]:
        """Centres (B, G, 3) in Å at latents (B, q); (1, G, 3) without latents."""
        if z is None or self.decoder is None or not z.shape[1]:
            return self.centres[None]
        offsets: Tensor = self.decoder(z).unflatten(1, self.centres.shape)
        moved: Tensor = self.centres + offsets
        return moved

    def encode(self, batch: FoldBatch) -> tuple[Float[Tensor, "B q"], Float[Tensor, "B q"]]:
        """Mean and log variance (B, q) of the latents, from phase-flipped coefficients."""
        assert self.encoder is not None
        flipped = batch.values * torch.sign(batch.ctf)
        mean, log_variance = self.encoder(torch.view_as_real(flipped).flatten(1)).chunk(2, dim=1)
        return mean, log_variance

    def sections(self, positions: Float[Tensor, "#B G 3"], batch: FoldBatch) -> Complex[Tensor, "B M"]:
        """Expected coefficients (B, M) of a batch's images for centres in Å."""
        own = positions.expand(len(batch.planes), *positions.shape[1:])
        amplitudes = self.chain.electrons * self.log_amplitude.exp()
        width = self.log_width_A.exp() / self.pixel_size_A
        place = own / self.pixel_size_A
        spectrum = gaussian_sections(self.kxy, batch.planes, place, amplitudes, width, self.box_size)
        return torch.mul(batch.ctf, spectrum)

    def misfit(self, positions: Float[Tensor, "#B G 3"], batch: FoldBatch) -> Float[Tensor, " B"]:
        """Squared error (B,) of each image's pixels, in units of the noise's variance: twice the nats of a Gaussian."""
        error: Tensor = batch.values - self.sections(positions, batch)
        squared: Tensor = error.real.square() + error.imag.square()
        return 2 * squared.sum(1)

    @torch.no_grad()
    def set_amplitude(self, batch: FoldBatch) -> None:
        """Begin with the amplitude that explains a batch best where the centres are."""
        expected = self.sections(self.positions(), batch)
        ratio = (batch.values * expected.conj()).real.sum() / expected.abs().square().sum()
        self.log_amplitude.add_(ratio.clamp_min(1e-3).log())


def divergence(mean: Float[Tensor, "B q"], log_variance: Float[Tensor, "B q"]) -> Float[Tensor, " B"]:
    """Kullback-Leibler divergence (B,) in nats from a standard normal distribution."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)

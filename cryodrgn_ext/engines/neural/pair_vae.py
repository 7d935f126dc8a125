"""The published architecture for tilt pairs: one latent from two images of a particle (Zhong 2022, 3.7.2).

The encoder is in two parts: the first makes an intermediate code of each image, with the same weights for both, the
second the latent from the two codes. That the same volume was seen from two sides urges the latent not to depend on
the pose. The decoder is that of :class:`cryodrgn_ext.engines.neural.vae.VaeModel`.

A batch of B pairs is an observation of 2 B images: the first ones, then the second ones in the same order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cryodrgn_ext.engines.neural.layers import residual_mlp
from cryodrgn_ext.engines.neural.model import Observation
from cryodrgn_ext.engines.neural.vae import VaeModel

JOINT_LAYERS = 2


class PairVaeModel(VaeModel):
    """See the module's text. Parameters are those of :class:`VaeModel`."""

    joint: nn.Sequential

    def _make_encoder(self, layers: int, width: int) -> None:
        self.encoder = residual_mlp(2 * self.n_encoder, width, layers, width)
        self.joint = residual_mlp(2 * width, width, JOINT_LAYERS, 2 * self.zdim)

    def encode(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latents of the pairs, (B, q) each."""
        if self.encoder is None:
            raise RuntimeError("this model has no encoder: it is homogeneous, or its latents are in a table")
        n = self.n_encoder
        flipped = observation.values[:, :n] * torch.sign(observation.whitened_ctf[:, :n])
        with self.network_arithmetic(flipped.device):
            first, second = self.encoder(torch.view_as_real(flipped).flatten(1)).chunk(2)
            output = self.joint(torch.cat([first, second], dim=1))
        mean, log_variance = output.float().chunk(2, dim=1)
        return mean, log_variance

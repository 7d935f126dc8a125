r"""Volumes as mixtures of learned Fourier components: what is common to the architectures that are made of them.

.. math:: \hat V(k) = s(|k|) \sum_c u_c h_c(k)

A network h over Fourier coordinates (features, residual layers) makes w real components; 2 w weights u mix them, for
the real and the imaginary part. One evaluation of h serves many volumes.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Complex, Float, Int64
from torch import Tensor, nn

from cryodrgn_ext.engines.neural.layers import FourierFeatures, residual_layers, to_half_space
from cryodrgn_ext.engines.neural.model import VolumeModel


class MixtureModel(VolumeModel):
    """See the module's text.

    Parameters
    ----------
    zdim : int
        Number of variables that the weights are functions of.
    envelope : Tensor
        (S,) magnitude per shell.
    frequencies : Tensor
        (F, 3) of the Fourier features.
    width, layers : int
        Components w, and residual layers of the trunk.
    """

    def __init__(self, zdim: int, envelope: Tensor, frequencies: Tensor, width: int, layers: int) -> None:
        super().__init__(zdim, envelope)
        self.width = width
        features = FourierFeatures(frequencies)
        self.trunk = nn.Sequential(
            features, nn.Linear(features.width, width), nn.ReLU(), *residual_layers(width, layers)
        )

    @abstractmethod
    def weights(self, z: Float[Tensor, "K q"]) -> Float[Tensor, "K columns"]:
        """Mixing weights u (K, 2 w) of latents (K, q): of the real parts, then of the imaginary parts."""

    def _components(self, points: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        """Components times gain: (..., P, w) float32, and the sign (..., P) of their imaginary part."""
        half, flipped = to_half_space(points)
        with self.network_arithmetic(points.device):
            h = self.trunk(half)
        h = h.to(gain.dtype) * gain[..., None]
        return h, 1.0 - 2.0 * flipped.float()

    @staticmethod
    def _combine(h: Tensor, sign: Tensor, u: Tensor) -> Tensor:
        """(B, M, w) components and (B, 2 w, n) weights -> (B, 2 M, n): real parts, then imaginary parts."""
        w = h.shape[-1]
        return torch.cat([h @ u[:, :w], (h @ u[:, w:]) * sign[..., None]], dim=1)

    def decode(self, points: Float[Tensor, "P 3"], z: Float[Tensor, "K q"]) -> Complex[Tensor, "K P"]:
        """One trunk evaluation serves all volumes."""
        h, sign = self._components(points, self.magnitude(points))
        u = self.weights(z)
        w = h.shape[-1]
        return torch.complex(u[:, :w] @ h.T, (u[:, w:] @ h.T) * sign)

    @torch.no_grad()
    def components(self, points: Float[Tensor, "P 3"], which: Int64[Tensor, " C"]) -> Complex[Tensor, "C P"]:
        """Spectra (C, P) complex64 of the components ``which`` (C,) int64 in 0..2 w - 1, at points (P, 3).

        The spectrum of a latent is the sum over all of them, weighted by :meth:`weights`.
        """
        h, sign = self._components(points, self.magnitude(points))
        chosen = h[:, which % self.width].T
        imaginary = (which >= self.width)[:, None]
        zero = torch.zeros((), device=h.device)
        return torch.complex(torch.where(imaginary, zero, chosen), torch.where(imaginary, chosen * sign, zero))

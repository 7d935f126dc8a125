"""Batches of images as models of atoms see them."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Complex, Float
from torch import Tensor

from cryodrgn_ext.images.particle_images import ParticleImages


@dataclass(frozen=True)
class FoldBatch:
    """Some images.

    Attributes
    ----------
    values : Tensor
        (B, M) complex64 whitened, centred coefficients, without that of frequency 0.
    ctf : Tensor
        (B, M) float32 CTF over the noise's standard deviation.
    planes : Tensor
        (B, 2, 3).
    """

    values: Complex[Tensor, "B M"]
    ctf: Float[Tensor, "B M"]
    planes: Float[Tensor, "B 2 3"]

    @classmethod
    def of(cls, images: ParticleImages, rows: Tensor, radius: int) -> FoldBatch:
        """Images ``rows`` up to a radius in cycles per box."""
        batch = images.batch(rows, images.plane.prefix(radius))
        return cls(batch.coefficients[:, 1:], batch.ctf[:, 1:], images.planes(rows))

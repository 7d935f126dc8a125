"""What poses are scored against: anything that can give central slices, for all images alike or for each its own.

A model is asked for slices on central planes. A plane (2, 3) says where an image frequency lies in the model's Fourier
space: (kx, ky) at kx plane[0] + ky plane[1], in cycles per box, so plane = (frame matrix) R[:2] (see
:meth:`cryodrgn_ext.images.particle_images.ParticleImages.planes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cryodrgn_ext.imaging.slices import FourierVolume


class SharedSlices(Protocol):
    """Slices on planes that all images share."""

    def of(self, rows: Tensor) -> Tensor:
        """Slices for images ``rows`` (B,): (G, M) complex64 if they are the same for all, else (B, G, M)."""
        ...


class SliceModel(Protocol):
    """A model of the images. ``FourierVolume`` itself is accepted wherever one of these is."""

    @property
    def per_image(self) -> bool:
        """Whether images have volumes of their own; slices of a shared set of planes are then made for each."""
        ...

    def shared(self, planes: Tensor, kxy: Tensor) -> SharedSlices:
        """Slices on planes (G, 2, 3) at frequencies (M, 2), for any of the images."""
        ...

    def own(self, rows: Tensor, planes: Tensor, kxy: Tensor) -> Tensor:
        """Slices (B, K, M) complex64 of images ``rows`` (B,) on planes (B, K, 2, 3) of their own."""
        ...


def points_on(planes: Tensor, kxy: Tensor) -> Tensor:
    """Points (..., M, 3) in cycles per box of the model, of frequencies (M, 2) on planes (..., 2, 3)."""
    kx, ky = kxy.to(planes).unsqueeze(-1).unbind(1)
    return kx * planes[..., None, 0, :] + ky * planes[..., None, 1, :]


@dataclass(frozen=True)
class SameSlices:
    """Slices that are the same for all images: ``values`` (G, M) complex64."""

    values: Tensor

    def of(self, rows: Tensor) -> Tensor:
        """See :class:`SharedSlices`."""
        return self.values


@dataclass(frozen=True)
class CombinedSlices:
    """Slices of components (Q, G, M), combined for each image with its weights (N, Q)."""

    values: Tensor
    weights: Tensor

    def of(self, rows: Tensor) -> Tensor:
        """See :class:`SharedSlices`."""
        weights = self.weights[rows.to(self.weights.device)].to(self.values.device)
        flat = torch.view_as_real(self.values).flatten(1)
        return torch.view_as_complex((weights @ flat).view(len(rows), *self.values.shape[1:], 2))


@dataclass(frozen=True)
class VolumeModel:
    """One volume for all images."""

    volume: FourierVolume

    @property
    def per_image(self) -> bool:
        """See :class:`SliceModel`."""
        return False

    def shared(self, planes: Tensor, kxy: Tensor) -> SameSlices:
        """See :class:`SliceModel`."""
        return SameSlices(self.volume.slice(points_on(planes, kxy)))

    def own(self, rows: Tensor, planes: Tensor, kxy: Tensor) -> Tensor:
        """See :class:`SliceModel`."""
        return self.volume.slice(points_on(planes, kxy))


@dataclass(frozen=True)
class LinearModel:
    """A consensus and components, with weights of each image: V_i = base + sum_j z_ij V_j.

    Attributes
    ----------
    base : FourierVolume
    components : sequence of FourierVolume
        q of them.
    z : Tensor
        (N, q) of all rows of the images that will be scored.
    """

    base: FourierVolume
    components: Sequence[FourierVolume]
    z: Tensor

    def __post_init__(self) -> None:
        if self.z.ndim != 2 or self.z.shape[1] != len(self.components):
            raise ValueError(f"z of shape {tuple(self.z.shape)} does not fit {len(self.components)} components")

    @property
    def per_image(self) -> bool:
        """See :class:`SliceModel`."""
        return True

    @property
    def weights(self) -> Tensor:
        """(N, q + 1) float32: one, and z."""
        return torch.cat([torch.ones_like(self.z[:, :1]), self.z], dim=1).float()

    def shared(self, planes: Tensor, kxy: Tensor) -> CombinedSlices:
        """See :class:`SliceModel`."""
        points = points_on(planes, kxy)
        return CombinedSlices(torch.stack([v.slice(points) for v in (self.base, *self.components)]), self.weights)

    def own(self, rows: Tensor, planes: Tensor, kxy: Tensor) -> Tensor:
        """See :class:`SliceModel`."""
        points = points_on(planes, kxy)
        out = self.base.slice(points)
        z = self.z[rows.to(self.z.device)].to(out.device).float()
        for j, volume in enumerate(self.components):
            out = out + z[:, j, None, None] * volume.slice(points)
        return out


def as_model(model: SliceModel | FourierVolume) -> SliceModel:
    """Return a model: a volume is one for all images."""
    return VolumeModel(model) if isinstance(model, FourierVolume) else model

"""Models that poses are scored against: anything that can give central slices, shared by all images or one each.

A model is asked for slices on central planes. A plane (2, 3) says where an image frequency lies in the model's Fourier
space: (kx, ky) at kx plane[0] + ky plane[1], in cycles per box, so plane = (frequency matrix) R[:2] (see
:meth:`cryodrgn_ext.images.particle_images.ParticleImages.planes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.pose.kernels import Packed


@runtime_checkable
class SharedSlices(Protocol):
    """Slices on planes that all images share."""

    def of(self, rows: Tensor) -> Tensor:
        """Slices for images ``rows`` (B,): (G, M) complex64 if they are the same for all, else (B, G, M)."""
        ...


@runtime_checkable
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


def points_on(planes: Float[Tensor, "*batch 2 3"], kxy: Shaped[Tensor, "M 2"]) -> Float[Tensor, "*batch M 3"]:
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
    """Slices (Q, G, M) of the volumes of a mixture, added up for each image."""

    values: Tensor
    model: LinearModel

    def of(self, rows: Tensor) -> Tensor:
        """See :class:`SharedSlices`."""
        flat = torch.view_as_real(self.values).flatten(1)
        mixed = self.model.share(rows).to(flat.device) @ flat
        return torch.view_as_complex(mixed.view(len(rows), *self.values.shape[1:], 2))


@dataclass(frozen=True)
class _Voxels:
    """Base of models made of volumes."""

    _packed: list[Packed] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def volumes(self) -> tuple[FourierVolume, ...]:
        """The volumes that are mixed."""
        raise NotImplementedError

    def share(self, rows: Tensor) -> Tensor:
        """(B, Q) float32: how much of each volume the images ``rows`` have."""
        raise NotImplementedError

    def is_on(self, device: torch.device) -> bool:
        """Whether all volumes are on a device of this kind."""
        return all(volume.data.device.type == device.type for volume in self.volumes)

    def packed(self, reach: float) -> Packed | None:
        """The volumes as the compiled kernel wants them, None where it cannot be used; made once for a reach."""
        if not all(v.data.device.type == "cpu" and v.data.dtype == torch.complex64 for v in self.volumes):
            return None
        if not self._packed or self._packed[0].reach < reach or self._packed[0].reach > 1.2 * reach:
            self._packed[:] = [Packed.of(self.volumes, reach)] if Packed.fits(self.volumes, reach) else []
        return self._packed[0] if self._packed else None


@dataclass(frozen=True)
class VolumeModel(_Voxels):
    """One volume for all images."""

    volume: FourierVolume

    @property
    def volumes(self) -> tuple[FourierVolume, ...]:
        """The volumes that are mixed: this one."""
        return (self.volume,)

    def to(self, device: torch.device) -> VolumeModel:
        """The same model on a device; itself where it is there already."""
        return self if self.is_on(device) else VolumeModel(_moved(self.volume, device))

    def share(self, rows: Tensor) -> Tensor:
        """(B, 1): one."""
        return torch.ones(len(rows), 1)

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
class LinearModel(_Voxels):
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
    def volumes(self) -> tuple[FourierVolume, ...]:
        """The volumes that are mixed: the consensus first."""
        return (self.base, *self.components)

    def to(self, device: torch.device) -> LinearModel:
        """The same model on a device; itself where it is there already."""
        if self.is_on(device):
            return self
        first, *others = (_moved(volume, device) for volume in self.volumes)
        return LinearModel(first, others, self.z)

    def share(self, rows: Tensor) -> Tensor:
        """(B, q + 1): one, and z."""
        z = self.z[rows.to(self.z.device)].float()
        return torch.cat([torch.ones_like(z[:, :1]), z], dim=1)

    def shared(self, planes: Tensor, kxy: Tensor) -> CombinedSlices:
        """See :class:`SliceModel`."""
        points = points_on(planes, kxy)
        return CombinedSlices(torch.stack([volume.slice(points) for volume in self.volumes]), self)

    def own(self, rows: Tensor, planes: Tensor, kxy: Tensor) -> Tensor:
        """See :class:`SliceModel`."""
        points = points_on(planes, kxy)
        share = self.share(rows).to(points.device)[:, :, None, None].unbind(1)
        return sum((w * v.slice(points) for w, v in zip(share, self.volumes, strict=True)), torch.zeros(()))


def _moved(volume: FourierVolume, device: torch.device) -> FourierVolume:
    return FourierVolume(volume.grid, volume.data.to(device))


def as_model(model: SliceModel | FourierVolume, device: torch.device) -> SliceModel:
    """Return a model, on the device if it is made of volumes; a volume alone is one for all images."""
    some = VolumeModel(model) if isinstance(model, FourierVolume) else model
    return some.to(device) if isinstance(some, VolumeModel | LinearModel) else some

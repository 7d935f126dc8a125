"""Where the particle lies in its box, and how poses follow when it is brought to the centre (Zhong 2022, 5.4.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.fourier.shifts import shift_phases
from cryodrgn_ext.fourier.slices import FourierGrid
from cryodrgn_ext.images.coefficient_source import CoefficientSource
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.images.poses import Poses

#: Density above this fraction of the 99.99th percentile has weight in the centre of mass.
THRESHOLD = 0.25


def centre_of_mass(volume: Float[Tensor, "D D D"]) -> Float[Tensor, "xyz=3"]:
    """(3,) x, y, z in voxels from voxel D // 2, of the density above a quarter of the 99.99th percentile."""
    dense = volume.float()
    level = THRESHOLD * torch.quantile(_sample(dense), 0.9999)
    dense = (dense - level.clamp_min(0.0)).clamp_min(0.0).double()
    total = float(dense.sum())
    if not total > 0:
        return torch.zeros(3, dtype=torch.float64, device=volume.device)
    axis = torch.arange(len(volume), device=volume.device, dtype=torch.float64) - len(volume) // 2
    sums = [(dense.sum(dim=others) * axis).sum() for others in ((0, 1), (0, 2), (1, 2))]
    return torch.stack(sums) / total


def _sample(volume: Tensor) -> Tensor:
    """At most 2^21 voxels: ``quantile`` takes no more than 2^24, and needs no more."""
    flat = volume.flatten()
    return flat[:: max(1, len(flat) >> 21)]


def rounded(offset: Tensor) -> Tensor:
    """Nearest whole voxels."""
    return offset.round()


def move_spectrum(
    half_volume: Complex[Tensor, "Z Y X"], grid: FourierGrid, by_px: Float[Tensor, "xyz=3"]
) -> Complex[Tensor, "Z Y X"]:
    """Half-volume of the map displaced by ``by_px`` (3,) x, y, z voxels: exp(-2 pi i k.s / D) times its values."""
    out = half_volume
    scale = -2.0 * math.pi / (grid.box_size * grid.oversampling)
    for dimension, axis in enumerate((2, 1, 0)):
        first = 0 if axis == 2 else -grid.half
        k = torch.arange(first, grid.half + 1, device=half_volume.device, dtype=torch.float64)
        angle = k * (scale * float(by_px[dimension]))
        phase = torch.polar(torch.ones_like(angle), angle).to(half_volume.dtype)
        out = out * phase.reshape([-1 if a == axis else 1 for a in range(3)])
    return out


def centred_poses(poses: Poses, centre_px: Float[Tensor, "xyz=3"]) -> Poses:
    """Poses (N,) that leave all images as they are when the map's point ``centre_px`` (3,) becomes its centre.

    A model point p is then called p - centre, so t' = t + (R centre)[:2].
    """
    return poses.moved((poses.rotation[:, :2] @ centre_px.to(poses.rotation)).to(poses.shift_px))


@dataclass(frozen=True)
class CentredCoefficients:
    """Coefficients of another source with every particle moved back by a shift of its own.

    Attributes
    ----------
    source : CoefficientSource
    plane : HalfPlane
    centre_px : Tensor
        (N, 2) float32, in pixels of the working box.
    """

    source: CoefficientSource
    plane: HalfPlane
    centre_px: Tensor

    @property
    def n_coefficients(self) -> int:
        """Number of coefficients of each image that are available."""
        return self.source.n_coefficients

    def gather(self, rows: Int[Tensor, " B"], n_coefficients: int) -> Complex[Tensor, "B {n_coefficients}"]:
        """See :class:`CoefficientSource`."""
        values = self.source.gather(rows, n_coefficients)
        centre = self.centre_px[rows.to(self.centre_px.device)].to(values.device)
        return values * shift_phases(self.plane.kxy[:n_coefficients].to(values.device), -centre, self.plane.box_size)


def recentred(images: ParticleImages, centre_px: Float[Tensor, "N 2"]) -> ParticleImages:
    """Return the images moved so that particles at ``centre_px`` (N, 2) come to lie at their centres.

    A search for shifts then looks around those; add ``centre_px`` to what it finds.
    """
    return replace(images, source=CentredCoefficients(images.source, images.plane, centre_px.float()))

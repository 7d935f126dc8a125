"""Poses against volumes that differ from image to image: sums over a few maps with weights of each image.

Poses found with one consensus blame its motion on the particle's orientation: an arm that swings out looks like a
rotation of the whole. Once a heterogeneity has been learned with those poses, each image can be held against its own
volume, and learning and alignment alternate (Zhong 2022, 5.3.3). The learning is not done here; what comes in are
arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryodrgn_ext.fourier.masks import spherical_mask
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.pose.alignment import Alignment, Reference, align_images
from cryodrgn_ext.pose.estimates import PoseEstimates
from cryodrgn_ext.pose.local import DifferentiableVolume
from cryodrgn_ext.pose.reconstruct_settings import ReconstructSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor

#: Maps that the volumes of all images are brought down to, besides their mean, and the share of their variance that
#: is enough.
MOST_COMPONENTS, ENOUGH = 6, 0.995


@dataclass(frozen=True)
class LinearVolumes:
    """Volumes V_i = base + sum over c of weights[i, c] components[c].

    Attributes
    ----------
    base : Tensor
        (D, D, D) float32.
    components : Tensor
        (C, D, D, D) float32.
    weights : Tensor
        (N, C) float32, one row for each of all images.
    """

    base: Tensor
    components: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        if self.components.ndim != 4 or self.weights.shape[1:] != self.components.shape[:1]:
            raise ValueError(
                f"weights {tuple(self.weights.shape)} do not fit components {tuple(self.components.shape)}"
            )

    def condensed(self, most: int = MOST_COMPONENTS, enough: float = ENOUGH) -> LinearVolumes:
        """The same volumes by their principal components: as few as explain ``enough`` of the variance of voxels."""
        if not len(self.components):
            return self
        mean = self.weights.double().mean(0)
        base = self.base + torch.einsum("c,cxyz->xyz", mean.float(), self.components)
        flat = self.components.flatten(1)
        values, vectors = torch.linalg.eigh((flat @ flat.T).double())
        root = values.clamp_min(0.0).sqrt()
        basis = vectors / root.clamp_min(1e-6 * float(root.max()) + 1e-30)  # components @ basis is orthonormal
        coordinates = (self.weights.double() - mean) @ vectors * root
        spread, axes = torch.linalg.eigh(coordinates.T @ coordinates)
        spread, axes = spread.flip(0).clamp_min(0.0), axes.flip(1)
        share = spread.cumsum(0) / spread.sum().clamp_min(1e-300)
        count = min(most, int((share < enough).sum()) + 1)
        maps = ((basis @ axes[:, :count]).T.float() @ flat).view(count, *self.base.shape)
        return LinearVolumes(base, maps, (coordinates @ axes[:, :count]).float())

    def masked(self, mask: Float[Tensor, "D D D"]) -> LinearVolumes:
        """All maps times a mask."""
        return LinearVolumes(self.base * mask, self.components * mask, self.weights)


def refine_with_volumes(
    images: ParticleImages,
    volumes: LinearVolumes,
    settings: ReconstructSettings,
    radius: float,
    monitor: Monitor | None = None,
    search_all: bool = False,
) -> PoseEstimates:
    """Refine all poses, each image against its own volume.

    Parameters
    ----------
    images : ParticleImages
        With the poses to begin from.
    volumes : LinearVolumes
        Brought down to :data:`MOST_COMPONENTS` principal components.
    settings : ReconstructSettings
    radius : float
        Largest |k| that counts, in cycles per box: up to where the volumes have signal.
    monitor : Monitor, optional
    search_all : bool
        Search all orientations first, and keep whichever of the searched pose and the one at hand fits better.

    Returns
    -------
    PoseEstimates
        Of all N images, on the CPU.
    """
    monitor = SilentMonitor() if monitor is None else monitor
    d = images.box_size
    device = torch.device(images.rotation.device if settings.device is None else settings.device)
    band = min(float(radius), float(images.plane.radius))
    limit = settings.mask_radius(d)
    few = volumes.condensed().masked(spherical_mask(d, 0.9 * limit, 0.1 * limit, volumes.base.device))
    maps = torch.cat([few.base[None], few.components]).to(device)
    field = DifferentiableVolume.from_maps(maps, min(math.ceil(band) + 1, d // 2))
    weights = torch.cat([torch.ones(len(few.weights), 1), few.weights.cpu()], dim=1)
    how = Alignment("search" if search_all else "local", band, settings)
    begin, rows = images.poses.to("cpu", torch.float64), torch.arange(images.n)
    label = "Aligning images to their own volumes"
    with torch.no_grad():
        return align_images(images, Reference(field, weights), begin, how, rows, monitor, label)

"""One map of all particles as they would look at one latent, in two halves that share no model.

If image i shows the structure V(z_i), and differences of structures are known, then what an image would have shown at a
latent z is its own content plus the projection of V(z) - V(z_i). So at every place of latent space a difference map D
is reconstructed from the images near it (kernel regression, :mod:`cryodrgn_ext.engines.near_knots`), and the
backprojection of the images of one half becomes, on the same grid,

    sum over i of [ctf X - ctf^2 D(z_i)] / sum over i of ctf^2 + D(z),

where D is made of images of the OTHER half alone. Where nothing moves, this is the map of all particles of the half;
where something does, it is that of the particles near z, with the noise that those have. The noise of D and of the mean
it is added to come from different halves, and a difference is as good as uncorrelated with the mean of the same images,
so that the FSC between the two half-maps is not flattered. Which latents images have was found by one model.

Differences are not filtered, and kept to where volumes differ: a filter would leave the average of all particles there,
blurred by the motion. Instead the finished map is filtered by the FSC of the region where it moves, and elsewhere by
that of the whole.

What this cannot do: make what moves sharper than the images near z show it. Density is not carried along the motion.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

from cryodrgn_ext.engines.near_knots import NearKnots, find_widths
from cryodrgn_ext.fourier.point_groups import C1, PointGroup
from cryodrgn_ext.fourier.shells import apply_radial_weights
from cryodrgn_ext.fourier.slices import FourierGrid, gridding_correction, map_to_grid
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.reconstruction.backprojection import BackprojectionSums, backproject
from cryodrgn_ext.reconstruction.half_maps import HalfMaps, combine_halves, with_mask


@dataclass(frozen=True)
class CorrectedMap:
    """A map of all particles at one latent.

    Attributes
    ----------
    maps : HalfMaps
        With the FSC in the mask of the particle.
    moving_resolution_A : float
        Where the FSC in the region where volumes differ falls below 0.143; of the whole where they do nowhere.
    """

    maps: HalfMaps
    moving_resolution_A: float


class MotionCorrection:
    """Backprojections of all particles, corrected for where each of them is in latent space.

    Parameters
    ----------
    images : ParticleImages
    z : ndarray
        (N, q) latents, one row for each image.
    places : ndarray
        (K, q) latents over which the particles are spread; each image counts as one at the nearest of them.
    targets : ndarray
        (T, q) latents of which maps are wanted.
    symmetry : PointGroup
        Imposed on all maps.
    device : torch.device or str
    monitor : Monitor
    """

    def __init__(
        self, images: ParticleImages, z: NDArray[np.float32], places: NDArray[np.float32],
        targets: NDArray[np.float32], symmetry: PointGroup = C1, device: torch.device | str = "cpu",
        *, monitor: Monitor,
    ) -> None:  # fmt: skip
        self.images, self.z, self.n_targets = images, z, len(targets)
        self.symmetry, self.device, self.monitor = symmetry, device, monitor
        knots = np.concatenate([targets, places]).astype(np.float32)
        self.near = NearKnots(images, z, knots, device, monitor, symmetry)
        self.widths = find_widths(self.near)
        self.region = self.widths.region
        self.grid = FourierGrid(images.box_size, images.plane.radius)

    def maps(self, mask: Tensor) -> list[CorrectedMap]:
        """For each target the map and its halves, with the FSC in a mask (D, D, D) of the particle."""
        return [self._map(first, second, mask) for first, second in self.sums()]

    def _map(self, first: BackprojectionSums, second: BackprojectionSums, mask: Tensor) -> CorrectedMap:
        whole = combine_halves(first, second, self.images.pixel_size_A, mask)
        if not self.region.any():
            return CorrectedMap(whole, whole.resolution_A)
        moving = with_mask(whole, first, second, self.region)
        region = self.region.numpy()
        return CorrectedMap(replace(whole, map=whole.map + region * (moving.map - whole.map)), moving.resolution_A)

    def sums(self) -> list[tuple[BackprojectionSums, BackprojectionSums]]:
        """For each target the sums of both halves."""
        halves = [self._half(half) for half in (0, 1)]
        return [(halves[0][target], halves[1][target]) for target in range(self.n_targets)]

    def _half(self, half: int) -> list[BackprojectionSums]:
        """Sums of a half's (0 or 1) images moved to each target, by differences of the other half."""
        members = self.near.members[half]
        members = members[~self.images.unusable[members]]
        means = np.stack([self.near.mean_latent(knot, self.widths.typical) for knot in range(len(self.near.knots))])
        nearest = self.n_targets + KDTree(means[self.n_targets :]).query(self.z[members])[1]
        total: BackprojectionSums | None = None
        places = np.unique(nearest).tolist()
        for knot in self.monitor.track(places, f"Moving half {half + 1} to one structure", len(places)):
            rows = torch.from_numpy(members[nearest == knot])
            own = backproject(self.images, rows, None, None, self.symmetry, self.device)
            left = own.without(self._difference(knot, 1 - half))
            total = left if total is None else total + left
        assert total is not None
        found = []
        for target in range(self.n_targets):
            added = total.weight * self._difference(target, 1 - half)
            found.append(replace(total, numerator=total.numerator + added))
        return found

    def _difference(self, knot: int, half: int) -> Tensor:
        """Fourier coefficients, as sums over a half's images have them, of that half's difference map at a knot."""
        volume = torch.zeros(self.region.shape)
        for count, part in self.widths.parts():
            left = self.near.sums(knot, half, count).without(self.near.references[half])
            volume += apply_radial_weights(left.solve().cpu(), part)
        volume = (volume * self.region).to(self.device)
        # Solving undoes what spreading images over the grid does to a map; sums still have it.
        spread = gridding_correction(self.grid.box_size, self.grid.oversampling, volume.device)
        return map_to_grid(volume * spread, self.grid)

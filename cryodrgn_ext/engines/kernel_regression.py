"""Volumes at any latent without a decoder: weighted backprojection of the images near it.

For latents that another program found there is no network that turns them into volumes, but the images are there. At
knots spread over the latents a volume is reconstructed from the images nearest in latent space, with weights that fall
to nothing with the distance (local-constant regression; Nadaraya 1964; for cryo-EM Gilles and Singer 2024). Between
knots a volume is a sum of those around it (local linear regression; Cleveland 1979), so that everything that is linear
in volumes is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.spatial import KDTree

from cryodrgn_ext.engines.base import LinearForm
from cryodrgn_ext.engines.near_knots import FARTHER, NearKnots, find_widths
from cryodrgn_ext.engines.saved_model import MODEL_FILE, opened_model, read_description, write_description
from cryodrgn_ext.engines.subspace.regions import particle_region
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.shells import apply_radial_weights
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.reconstruction.half_maps import default_fsc_mask

NAME = "kernel"
LATENTS_PER_BLOCK = 1 << 13
RIDGE = 0.003  # of slopes, in units of the distance over which knots count
SMALLEST_SHARE = 1e-6  # of the nearest knot's weight, so that points at equal distances of all have a fit

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class KernelRegression:
    """Volumes reconstructed near knots; see :class:`cryodrgn_ext.engines.base.Heterogeneity`.

    Attributes
    ----------
    z : ndarray
        (N, q) float32.
    z_cov : ndarray or None
        (N, q, q) float32.
    knots : ndarray
        (K, q) float32, mean latent of the images that each map was made of.
    maps : ndarray
        (K, D, D, D) float32, what was reconstructed there.
    pixel_size_A : float
    loss_history : mapping
        Empty: nothing is learned.
    """

    z: NDArray[np.float32]
    z_cov: NDArray[np.float32] | None
    knots: NDArray[np.float32]
    maps: NDArray[np.float32]
    pixel_size_A: float
    loss_history: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def box_size(self) -> int:
        """Edge of the volumes, in voxels."""
        return len(self.maps[0])

    def weights(self, z: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Shares (P, K) of the knots' maps in the volumes at latents (P, q); every row sums to 1.

        Raises
        ------
        InputError
            When ``z`` does not have q columns or is not finite.
        """
        z = np.asarray(z, np.float32)
        if z.ndim != 2 or z.shape[1] != self.knots.shape[1]:
            raise InputError(f"latents of shape (P, {self.knots.shape[1]}) expected, got {z.shape}")
        if not np.isfinite(z).all():
            row = int(np.argmin(np.isfinite(z).all(axis=1)))
            raise InputError(f"latent row {row} (from 0) is not finite: give numbers in every column")
        return interpolation_weights(self.knots, z)

    def volumes(self, z: NDArray[np.floating[Any]]) -> Iterator[NDArray[np.float32]]:
        """Yield a map (D, D, D) for each row of ``z`` (P, q)."""
        for weight in self.weights(z):
            used = np.flatnonzero(weight)
            volume: NDArray[np.float32] = np.tensordot(weight[used], self.maps[used], axes=1)
            yield volume

    def linear_form(self) -> LinearForm:
        """See :class:`cryodrgn_ext.engines.base.LinearForm`."""
        mean: NDArray[np.float32] = self.maps.mean(axis=0)

        def components() -> Iterator[NDArray[np.float32]]:
            for volume in self.maps:
                yield volume - mean

        return LinearForm(mean, len(self.maps), components, self.weights)

    def save(self, directory: Path) -> None:
        """Write ``engine.json`` and ``model.safetensors`` into an existing directory."""
        arrays = {"z": self.z, "knots": self.knots, "maps": self.maps}
        if self.z_cov is not None:
            arrays["z_cov"] = self.z_cov
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, str(directory / MODEL_FILE))
        write_description(directory, NAME, {"pixel_size_A": self.pixel_size_A})


def load(directory: Path) -> KernelRegression:
    """Read what :meth:`KernelRegression.save` wrote.

    Raises
    ------
    InputError
        When a file is missing or damaged.
    """
    description = read_description(directory)
    with opened_model(directory) as path:
        arrays = load_file(str(path))
        z, knots, maps = arrays["z"], arrays["knots"], arrays["maps"]
        if knots.shape != (len(maps), z.shape[1]) or maps.ndim != 4:
            raise ValueError("maps of another shape")
        return KernelRegression(z, arrays.get("z_cov"), knots, maps, float(description["pixel_size_A"]))


def regress_volumes(
    images: ParticleImages,
    z: NDArray[np.float32],
    knots: NDArray[np.float32],
    neighbors: int | None,
    consensus: NDArray[np.floating],
    consensus_radius: int,
    *,
    device: torch.device | str = "cpu",
    monitor: Monitor,
) -> KernelRegression:
    """Reconstruct a volume at each knot from the images near it.

    The consensus of all images is sharper than any part of them can be, so only the difference from it is estimated
    from the images near a knot, where differences are, and with a prior of their power: what both half-sets share of
    them, on average over some knots. (The FSCs of the knots' own halves scatter, which would look like differences of
    structure.) Volumes are shown within the particle, wherever that is in any of its states.

    Parameters
    ----------
    images : ParticleImages
    z : ndarray
        (N, q) latents of the images.
    knots : ndarray
        (K, q) where to reconstruct.
    neighbors : int or None
        Images that a volume is made of, at most N, half of them from each half-set; chosen by cross-validation between
        the half-sets, for each shell by itself, when None.
    consensus : ndarray
        (D, D, D) map of all images, filtered.
    consensus_radius : int
        Shell (cycles per box) of its resolution.
    device : torch.device or str
    monitor : Monitor

    Raises
    ------
    InputError
        When there are not as many latents as images, or one is not finite.
    """
    if z.ndim != 2 or len(z) != images.n or not np.isfinite(z).all():
        raise InputError(f"{images.n} finite latents expected, one row for each image, got an array of {z.shape}")
    near = NearKnots(images, z, knots, device, monitor)
    found = find_widths(near, neighbors)
    monitor.message(f"{len(knots)} volumes of {found.words} images each")
    region = found.region if found.region.any() else default_fsc_mask(images.box_size)
    particle = particle_region(consensus.astype(np.float32), consensus_radius, region).numpy()
    maps, means = np.empty((len(knots), *consensus.shape), np.float32), np.empty_like(knots)
    for knot in monitor.track(range(len(knots)), "Reconstructing near knots", len(knots)):
        difference = torch.zeros(consensus.shape)
        for count, part in found.parts():
            sums = near.sums(knot, 0, count) + near.sums(knot, 1, count)
            difference += apply_radial_weights(sums.without(near.reference).solve(found.precision).cpu(), part)
        maps[knot] = (consensus + (difference * region).numpy()) * particle
        means[knot] = near.mean_latent(knot, found.typical)
    return KernelRegression(z, None, means, maps, images.pixel_size_A)


def interpolation_weights(knots: NDArray[np.float32], z: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights (P, K) by which values at knots (K, q) give values at points (P, q): local linear regression.

    Around each point a linear function is fitted to the values at the nearest knots, with weights that fall smoothly
    to nothing at the last of them; its value at the point is a sum over the knots. So a value that is linear in the
    latents comes out as it is (up to the small ridge, which also bounds what lies outside of the knots), and particles
    do not pile up at knots, as they do with averages of neighbours. Every row sums to 1.
    """
    n_knots, q = knots.shape
    if n_knots == 1:
        return np.ones((len(z), 1), np.float32)
    used = min(n_knots, 2 * (q + 1))
    weights = np.zeros((len(z), n_knots), np.float32)
    tree, places = KDTree(knots), knots.astype(np.float64)
    for start in range(0, len(z), LATENTS_PER_BLOCK):
        block = slice(start, start + LATENTS_PER_BLOCK)
        distance, index = tree.query(z[block], k=np.arange(1, min(used + 1, n_knots) + 1))
        # The last knot has no weight; where there is none beyond those that are used, all keep some.
        reach = distance[:, -1:] * (1.0 if n_knots > used else FARTHER) + np.finfo(np.float32).tiny
        index = index[:, :used]
        kernel = np.maximum((1.0 - (distance[:, :used] / reach) ** 2) ** 2, SMALLEST_SHARE)
        terms = np.concatenate(
            [np.ones((*index.shape, 1)), (places[index] - z[block][:, None].astype(np.float64)) / reach[:, :, None]], 2
        )
        moment = np.einsum("pk,pki,pkj->pij", kernel, terms, terms)
        ridge = np.diag([0.0, *[RIDGE] * q])
        moment += kernel.sum(axis=1)[:, None, None] * ridge
        unit = np.zeros((len(index), q + 1, 1))
        unit[:, 0] = 1.0
        solution = np.linalg.solve(moment, unit)
        share = kernel * (terms @ solution)[:, :, 0]
        weights[np.arange(len(index))[:, None] + start, index] = share
    return weights

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
from scipy import ndimage
from scipy.spatial import KDTree
from torch import Tensor

from cryodrgn_ext.engines.base import LinearForm
from cryodrgn_ext.engines.saved_model import MODEL_FILE, opened_model, read_description, write_description
from cryodrgn_ext.engines.subspace.regions import particle_region, region_of_spread
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.point_groups import C1, PointGroup
from cryodrgn_ext.fourier.shells import apply_radial_weights, shell_products
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.reconstruction.backprojection import BackprojectionSums, backproject
from cryodrgn_ext.reconstruction.half_maps import default_fsc_mask

NAME = "kernel"
LATENTS_PER_BLOCK = 1 << 13
SHARES = (40, 20, 10, 5, 3)  # of the images, among which the number for one volume is chosen
FEWEST, MOST = 100, 20_000
POINTS_PER_COEFFICIENT = 2**3  # of the grid on which images are summed
KNOTS_FOR_POWER = 8  # from which the power of differences is estimated
RIDGE = 0.003  # of slopes, in units of the distance over which knots count
FARTHER = 1.5  # than the last knot lies that distance where all knots count
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
        the half-sets when None.
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
    count = near.best_count() if neighbors is None else min(neighbors, len(z))
    monitor.message(f"{len(knots)} volumes of {count} images each")
    region, prior = region_and_precision(near.difference_pairs(count), images.plane.radius)
    particle = particle_region(consensus.astype(np.float32), consensus_radius, region).numpy()
    maps, means = np.empty((len(knots), *consensus.shape), np.float32), np.empty_like(knots)
    for knot in monitor.track(range(len(knots)), "Reconstructing near knots", len(knots)):
        sums = near.sums(knot, 0, count) + near.sums(knot, 1, count)
        difference = (sums.without(near.reference).solve(prior).cpu() * region).numpy()
        maps[knot] = (consensus + difference) * particle
        means[knot] = near.mean_latent(knot, count)
    return KernelRegression(z, None, means, maps, images.pixel_size_A)


class NearKnots:
    """Sums over the images nearest to each knot, as many from one half-set as from the other.

    Attributes
    ----------
    reference : Tensor
        Fourier coefficients of the consensus of all images; ``references`` of those of each half.
    """

    def __init__(
        self, images: ParticleImages, z: NDArray[np.float32], knots: NDArray[np.float32], device: torch.device | str,
        monitor: Monitor, symmetry: PointGroup = C1,
    ) -> None:  # fmt: skip
        self.images, self.z, self.knots, self.device, self.monitor = images, z, knots, device, monitor
        self.symmetry = symmetry
        self.members = [np.flatnonzero(images.half_set.cpu().numpy() == half) for half in (1, 2)]
        self.trees = [KDTree(z[rows]) for rows in self.members]
        whole = [
            backproject(images, torch.from_numpy(rows), symmetry=symmetry, device=device, monitor=monitor)
            for rows in self.members
        ]
        self.references = [sums.ratio() for sums in whole]
        self.reference = (whole[0] + whole[1]).ratio()
        self.some = np.unique(np.linspace(0, len(knots) - 1, min(KNOTS_FOR_POWER, len(knots))).astype(int)).tolist()

    def _weighted(self, knot: int, half: int, count: int) -> tuple[NDArray[np.int64], FloatArray]:
        """Rows of the images near a knot, and their weights."""
        index, weight = weighted_neighbors(self.trees[half], self.knots[knot], max(1, count // 2))
        return self.members[half][index], weight

    def sums(self, knot: int, half: int, count: int) -> BackprojectionSums:
        """Sums over the images of a half (0 or 1) among the ``count`` near a knot."""
        rows, weight = self._weighted(knot, half, count)
        return backproject(
            self.images, torch.from_numpy(rows), torch.from_numpy(weight), symmetry=self.symmetry, device=self.device
        )

    def mean_latent(self, knot: int, count: int) -> NDArray[np.float32]:
        """(q,) Mean of the latents of these images: at the border of the cloud all lie to one side of the knot."""
        parts = [self._weighted(knot, half, count) for half in (0, 1)]
        total = sum(weight @ self.z[rows] for rows, weight in parts)
        mean: NDArray[np.float32] = (total / sum(weight.sum() for _, weight in parts)).astype(np.float32)
        return mean

    def difference_pairs(self, count: int) -> list[tuple[Tensor, Tensor]]:
        """Difference maps (D, D, D) of both halves from the consensus of the same half, near some of the knots."""
        found = []
        for knot in self.monitor.track(self.some, f"Differences of {count} images", len(self.some)):
            a, b = (self.sums(knot, half, count).without(self.references[half]).solve().cpu() for half in (0, 1))
            found.append((a, b))
        return found

    def best_count(self) -> int:
        """Number of images whose estimates from one half come nearest to what the other half shows close to the knots.

        The squared error of an estimate F against a truth T is |F|^2 - 2 F.T but for a constant, and a map of few
        images of the other half is the truth but for independent noise (as Gilles and Singer 2024 choose bandwidths).
        """
        n = len(self.z)
        counts = sorted({min(max(n // share, FEWEST), MOST, n) for share in SHARES})
        if len(counts) == 1:
            return counts[0]
        errors: list[float] = []
        targets: list[Tensor] = []
        sphere = default_fsc_mask(self.images.box_size)
        for count in counts:
            pairs = self.difference_pairs(count)
            targets = targets or [b * sphere for _, b in pairs]
            region, prior = region_and_precision(pairs, self.images.plane.radius)
            estimates = (
                self.sums(knot, 0, count).without(self.references[0]).solve(prior).cpu() * region for knot in self.some
            )
            errors.append(sum(float((f * (f - 2 * t)).sum()) for f, t in zip(estimates, targets, strict=True)))
        return counts[int(np.argmin(errors))]


def region_and_precision(pairs: Sequence[tuple[Tensor, Tensor]], radius: int) -> tuple[Tensor, Tensor]:
    """Where differences are, and one over their power in each shell, from difference maps (D, D, D) of both halves.

    The power is that in the region: spread over the whole box it would be small beside the noise there, and what moves
    would be lost.

    Returns
    -------
    Tensor
        (D, D, D) soft mask; a sphere when nothing stands out.
    Tensor
        (radius + 1,) float64, in the units of the weights of a grid that is oversampled twice; infinity where the
        halves have no power in common.
    """
    region = region_of_differences(pairs, radius)
    if not region.any():
        region = default_fsc_mask(len(region))
    power = _common_power([(a * region, b * region) for a, b in pairs]) / region.square().mean()
    # A coefficient of a map is measured by as many points of the oversampled grid, each with its own weight.
    power = POINTS_PER_COEFFICIENT * power
    precision = torch.where(power > 0, 1.0 / power, torch.inf)[: radius + 1]
    precision[0] = torch.inf  # the mean density follows the normalisation of the background
    return region, precision


def region_of_differences(pairs: Sequence[tuple[Tensor, Tensor]], radius: int) -> Tensor:
    """Soft mask (D, D, D) of where difference maps of both halves stand out; zeros when they do nowhere."""
    sphere = default_fsc_mask(len(pairs[0][0]))
    common = _common_power([(a * sphere, b * sphere) for a, b in pairs])
    total = sum(shell_products(one * sphere, one * sphere) for pair in pairs for one in pair) / (2 * len(pairs))
    share = torch.nan_to_num(2 * common / (common + total)).clamp(0, 1)  # of the power of the halves' mean
    filtered = [apply_radial_weights(0.5 * (a + b) * sphere, share).numpy() for a, b in pairs]
    return region_of_spread(ndimage.gaussian_filter(np.std(filtered, axis=0), 1.0), radius)


def _common_power(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """(D // 2 + 1,) float64 mean power that the two maps of a pair share, smooth over three shells; at least 0.

    The noise of two halves is independent, and leaves their products on average.
    """
    power = torch.stack([shell_products(a, b) for a, b in pairs]).mean(dim=0)
    padded = torch.nn.functional.pad(power[None, None], (1, 1), mode="replicate")
    return torch.nn.functional.avg_pool1d(padded, 3, stride=1)[0, 0].clamp_min(0.0)


def weighted_neighbors(tree: KDTree, point: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], FloatArray]:
    """(m,) the nearest points of a tree, and their weights 1 - (distance / that of the next one)^2, nearest first."""
    m = min(count, tree.n)
    distance, index = tree.query(point, k=np.arange(1, min(m + 1, tree.n) + 1))
    reach = distance[-1] if len(distance) > m else FARTHER * distance[-1]
    weight = 1.0 - (distance[:m] / reach) ** 2 if reach > 0 else np.ones(m)
    if weight.max() <= 0:  # all at one distance
        weight = np.ones(m)
    return index[:m].astype(np.int64), weight


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

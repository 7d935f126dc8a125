"""Backprojection of the images near places of latent space, and of how many of them each frequency is best made.

A map of few images shows little but noise at high frequencies, and one of many is blurred by what differs among them.
So for each shell of Fourier space the number of images is chosen by how well differences from the consensus, as one
half-set shows them, agree with what the other half-set shows very near to the same place (cf. Gilles and Singer 2024).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree
from torch import Tensor

from cryodrgn_ext.engines.subspace.regions import region_of_spread
from cryodrgn_ext.fourier.point_groups import C1, PointGroup
from cryodrgn_ext.fourier.shells import apply_radial_weights, shell_products
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.reconstruction.backprojection import BackprojectionSums, backproject
from cryodrgn_ext.reconstruction.half_maps import default_fsc_mask

SHARES = (40, 20, 10, 5, 3)  # of the images, among which the number for one volume is chosen
FEWEST, MOST = 100, 20_000
KNOTS_FOR_POWER = 8  # from which the power of differences is estimated
POINTS_PER_COEFFICIENT = 2**3  # of the grid on which images are summed
FARTHER = 1.5  # than the last knot lies that distance where all knots count

FloatArray = NDArray[np.float64]
Pairs = Sequence[tuple[Tensor, Tensor]]


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


@dataclass(frozen=True)
class Widths:
    """Of how many images differences are made, shell by shell, and what is known of them.

    Attributes
    ----------
    counts : tuple of int
        Numbers of images that some shell is made of, increasing.
    of_shell : Tensor
        (D // 2 + 1,) int64: which of the counts.
    region : Tensor
        (D, D, D) soft mask of where differences stand out; zeros when they do nowhere.
    power : Tensor
        (D // 2 + 1,) float64 of differences in the region (in a sphere without one), as both half-sets share it.
    radius : int
        Of the images' band.
    """

    counts: tuple[int, ...]
    of_shell: Tensor
    region: Tensor
    power: Tensor
    radius: int

    def parts(self) -> Iterator[tuple[int, Tensor]]:
        """Yield each number of images, and the (D // 2 + 1,) shells that are made of so many as weights 0 and 1."""
        for number, count in enumerate(self.counts):
            yield count, (self.of_shell == number).double()

    @property
    def precision(self) -> Tensor:
        """(radius + 1,) float64 one over the power, in the units of the weights of a grid that is oversampled twice.

        A coefficient of a map is measured by as many points of that grid, each with its own weight. Infinity where the
        halves have no power in common.
        """
        power = POINTS_PER_COEFFICIENT * self.power
        precision = torch.where(power > 0, 1.0 / power, torch.inf)[: self.radius + 1]
        precision[0] = torch.inf  # the mean density follows the normalisation of the background
        return precision

    @property
    def typical(self) -> int:
        """Number of images that most of the differences' power is made of."""
        size = self.power * torch.arange(len(self.power)) ** 2
        of_count = [float(size[self.of_shell == number].sum()) for number in range(len(self.counts))]
        return self.counts[int(np.argmax(of_count))]

    @property
    def words(self) -> str:
        """The numbers, for the log."""
        return " to ".join(str(count) for count in sorted({self.counts[0], self.counts[-1]}))


def find_widths(near: NearKnots, neighbors: int | None = None) -> Widths:
    """Choose numbers of images for each shell, by cross-validation between the half-sets; or take the one given."""
    n, radius = len(near.z), near.images.plane.radius
    counts = sorted({min(max(n // share, FEWEST), MOST, n) for share in SHARES})
    if neighbors is not None:
        counts = [min(neighbors, n)]
    pairs = near.difference_pairs(counts[len(counts) // 2])
    region = region_of_differences(pairs, radius)
    where = region if region.any() else default_fsc_mask(len(region))
    nearest = near.difference_pairs(counts[0]) if len(counts) > 1 else pairs
    targets = [(a * where, b * where) for a, b in nearest]
    scores, powers = [], []
    for count in counts:
        found = nearest if count == counts[0] else near.difference_pairs(count)
        own = [(a * where, b * where) for a, b in found]
        scores.append(_agreement(own, targets))
        powers.append(common_power(own) / where.square().mean())
    best = torch.stack(scores).argmax(dim=0)
    power = torch.stack(powers).gather(0, best[None])[0]
    used = sorted(set(best.tolist()))
    of_shell = torch.tensor([used.index(one) for one in best.tolist()])
    return Widths(tuple(counts[one] for one in used), of_shell, region, power, radius)


def _agreement(own: Pairs, targets: Pairs) -> Tensor:
    """(D // 2 + 1,) float64 correlation of differences of either half with what the other one shows nearby."""
    between = _smooth(sum(shell_products(a, d) + shell_products(b, c)
                          for (a, b), (c, d) in zip(own, targets, strict=True)))  # fmt: skip
    within = _smooth(sum(shell_products(a, a) + shell_products(b, b) for a, b in own))
    return between / within.clamp_min(1e-300).sqrt()


def _smooth(values: Tensor | int) -> Tensor:
    """Mean over three neighbouring shells."""
    assert isinstance(values, Tensor)
    padded = torch.nn.functional.pad(values[None, None], (1, 1), mode="replicate")
    return torch.nn.functional.avg_pool1d(padded, 3, stride=1)[0, 0]


def region_and_precision(pairs: Pairs, radius: int) -> tuple[Tensor, Tensor]:
    """Where differences are (D, D, D), a sphere when nothing stands out, and :attr:`Widths.precision`.

    Parameters
    ----------
    pairs : sequence
        Difference maps (D, D, D) of both halves.
    radius : int
        Of the images' band.
    """
    region = region_of_differences(pairs, radius)
    where = region if region.any() else default_fsc_mask(len(region))
    power = common_power([(a * where, b * where) for a, b in pairs]) / where.square().mean()
    return where, Widths((0,), torch.zeros(len(power)), region, power, radius).precision


def region_of_differences(pairs: Pairs, radius: int) -> Tensor:
    """Soft mask (D, D, D) of where difference maps of both halves stand out; zeros when they do nowhere."""
    sphere = default_fsc_mask(len(pairs[0][0]))
    common = common_power([(a * sphere, b * sphere) for a, b in pairs])
    total = sum(shell_products(one * sphere, one * sphere) for pair in pairs for one in pair) / (2 * len(pairs))
    share = torch.nan_to_num(2 * common / (common + total)).clamp(0, 1)  # of the power of the halves' mean
    filtered = [apply_radial_weights(0.5 * (a + b) * sphere, share).numpy() for a, b in pairs]
    return region_of_spread(ndimage.gaussian_filter(np.std(filtered, axis=0), 1.0), radius)


def common_power(pairs: Pairs) -> Tensor:
    """(D // 2 + 1,) float64 mean power that the two maps of a pair share, smooth over three shells; at least 0.

    The noise of two halves is independent, and leaves their products on average.
    """
    return _smooth(torch.stack([shell_products(a, b) for a, b in pairs]).mean(dim=0)).clamp_min(0.0)


def weighted_neighbors(tree: KDTree, point: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], FloatArray]:
    """(m,) the nearest points of a tree, and their weights 1 - (distance / that of the next one)^2, nearest first."""
    m = min(count, tree.n)
    distance, index = tree.query(point, k=np.arange(1, min(m + 1, tree.n) + 1))
    reach = distance[-1] if len(distance) > m else FARTHER * distance[-1]
    weight = 1.0 - (distance[:m] / reach) ** 2 if reach > 0 else np.ones(m)
    if weight.max() <= 0:  # all at one distance
        weight = np.ones(m)
    return index[:m].astype(np.int64), weight

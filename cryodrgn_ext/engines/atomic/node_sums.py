"""The images' likelihood of structures at nodes of latent space, reduced to sums over Fourier space.

The log-likelihood of a volume, given which images show it and how probably, is quadratic in the volume: two sums over
the images, CTF times data and CTF squared, hold all of it (up to the interpolation of images onto a grid). So images
are read once for each estimate of their places, and a fit takes the same time for ten thousand images as for a million.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Complex, Float, Float64, Int64
from torch import Tensor

from cryodrgn_ext.fourier.slices import FourierGrid, FourierVolume
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.pose.scoring import Scorer
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.reconstruction.backprojection import backproject

#: Images that belong to a node with less than this probability are left out of its sums.
LEAST_PROBABILITY = 1e-3
IMAGES_AT_ONCE = 4096


@dataclass(frozen=True)
class NodeSums:
    """Sums of the images at each of K nodes.

    Attributes
    ----------
    grid : FourierGrid
        Of one point per cycle per box.
    numerator : Tensor
        (K, Z, Z, X) complex64.
    weight : Tensor
        (K, Z, Z, X) float32; 0 beyond the band. The plane x = 0, which holds both partners of each pair, counts half.
    """

    grid: FourierGrid
    numerator: Complex[Tensor, "K Z Z X"]
    weight: Float[Tensor, "K Z Z X"]

    def __add__(self, other: NodeSums) -> NodeSums:
        """Sums over the images of both."""
        return NodeSums(self.grid, self.numerator + other.numerator, self.weight + other.weight)

    def band(self, radius: int) -> NodeSums:
        """The same up to a lower frequency, in cycles per box."""
        grid = FourierGrid(self.grid.box_size, radius, 1)
        cut = slice(self.grid.half - grid.half, self.grid.half + grid.half + 1)
        inside = grid_shells(grid) <= radius
        numerator, weight = (a[:, cut, cut, : grid.half + 1] * inside for a in (self.numerator, self.weight))
        return NodeSums(grid, numerator, weight)


def grid_shells(grid: FourierGrid) -> Int64[Tensor, "Z Z X"]:
    """Nearest-integer shell (cycles per box) of each point of a grid of one point per cycle."""
    k = torch.arange(-grid.half, grid.half + 1, dtype=torch.float32)
    squared = k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None, grid.half :] ** 2
    return squared.sqrt().round().long()


def half_rows(images: ParticleImages, rows: Int64[Tensor, " n"]) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"]]:
    """Which of the rows are of each half-set; every other one where all are of one."""
    half = images.half_set.cpu()[rows]
    both = bool((half == 1).any()) and bool((half == 2).any())
    first = half == 1 if both else torch.arange(len(half)) % 2 == 0
    return first, ~first


def sums_at_nodes(
    images: ParticleImages, rows: Int64[Tensor, " n"], probability: Float[Tensor, "n K"], radius: int, monitor: Monitor
) -> NodeSums:
    """Sum images ``rows`` at every node, each with its probability (n, K) of belonging there."""
    grid = FourierGrid(images.box_size, radius, 1)
    count = probability.shape[1]
    numerator = torch.zeros(count, *grid.shape, dtype=torch.complex64)
    weight = torch.zeros(count, *grid.shape)
    for node in monitor.track(range(count), "Summing images at nodes", count):
        share = probability[:, node].float()
        used = share > LEAST_PROBABILITY
        found = backproject(images, rows[used], share[used], grid, device="cpu")
        numerator[node], weight[node] = found.numerator, found.weight
    numerator[..., 0] *= 0.5
    weight[..., 0] *= 0.5
    # The mean of an image follows the normalisation of its background.
    outside = (grid_shells(grid) > radius) | (grid_shells(grid) == 0)
    return NodeSums(grid, numerator.masked_fill(outside, 0), weight.masked_fill(outside, 0))


def log_likelihoods(
    images: ParticleImages, rows: Int64[Tensor, " n"], volumes: Sequence[FourierVolume], radius: int, monitor: Monitor
) -> Float64[Tensor, "n K"]:
    """Log-likelihood (n, K) in nats of each volume for each image at its pose, up to a constant of each image."""
    found = torch.empty(len(rows), len(volumes), dtype=torch.float64)
    parts: Iterable[Tensor] = torch.arange(len(rows)).split(IMAGES_AT_ONCE)
    for part in monitor.track(parts, "Weighing nodes", len(rows), IMAGES_AT_ONCE):
        scorer = Scorer(images, rows[part], radius)
        rotation, shift_px = images.rotation[rows[part], None], images.shift_px[rows[part], None]
        for node, volume in enumerate(volumes):
            found[part, node] = scorer.own(volume, rotation, shift_px)[:, 0, 0].double()
    return found


def posterior(log_likelihood: Float64[Tensor, "n K"], weight: Float64[Tensor, " K"]) -> Float64[Tensor, "n K"]:
    """Probability (n, K) of each node for each image, given the nodes' shares (K,) of the particles."""
    return torch.softmax(log_likelihood + weight.clamp_min(1e-12).log(), dim=1)

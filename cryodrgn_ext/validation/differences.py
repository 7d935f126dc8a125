"""Difference of a set of particles from the consensus, and whether it is the same in both halves.

For the particles of one half h and one set, with whitened images X_i and CTF c_i (over sigma), the residual at a point
of Fourier space

    r_h = sum_i c_i (X_i - c_i C_h) = n_h - w_h C_h

has the expectation zero when the particles come from the consensus C, whatever their orientations and defoci: it is
the gradient of the likelihood at the consensus. (The difference of two maps has no such property: sets that differ in
their orientations only have different maps.) n_h and w_h are the sums of a backprojection of the set, and C_h is the
ratio of the same sums of all particles of the half, on the same grid, so that errors of interpolation cancel. With a
Wiener filter the residual becomes a difference map per half, r_h / (w_h + 1/tau^2). The noise of the two halves is
independent, so that the correlation of their difference maps inside the mask tells what reproduces from noise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.fourier.resizing import crop_map
from cryodrgn_ext.fourier.slices import FourierGrid
from cryodrgn_ext.reconstruction.backprojection import BackprojectionSums

COMPARED_FSC = 0.5  # shells up to where the consensus half-maps agree at least this well
MIN_RADIUS = 4
MAX_RADIUS = 32  # cycles per box; larger features carry the difference, and the cost grows with the square


def comparison_radius(consensus_fsc: NDArray[np.floating], limit: int) -> int:
    """Largest |k| (cycles per box) at which sets are compared with the consensus, at most ``limit``."""
    poor = np.flatnonzero(consensus_fsc[1:] < COMPARED_FSC) + 1
    reliable = int(poor[0]) - 1 if len(poor) else len(consensus_fsc) - 1
    return min(max(reliable, MIN_RADIUS), MAX_RADIUS, limit)


class Products(NamedTuple):
    """Inner products of the difference maps of two halves: with each other, and each with itself."""

    between: float
    first: float
    second: float

    @property
    def correlation(self) -> float:
        """Of the two maps; 0 when one of them has no difference at all."""
        norm = (self.first * self.second) ** 0.5
        return self.between / norm if norm > 0 else 0.0


class ConsensusComparison:
    """Comparison of sets of particles with all particles, in a low band and a small box of the same extent.

    Parameters
    ----------
    all1, all2 : BackprojectionSums
        Of all particles of each half, to the radius of the comparison.
    mask : Tensor
        (D, D, D) where to compare.
    """

    def __init__(self, all1: BackprojectionSums, all2: BackprojectionSums, mask: Tensor) -> None:
        given = all1.grid
        small = min(given.box_size, 2 * given.radius + 2)
        self.grid = FourierGrid(small, given.radius, given.oversampling)
        self.mask = crop_map(mask, small).clamp(0, 1)
        self._references = [sums.ratio().cpu() for sums in (all1, all2)]
        in_band = [
            replace(sums, grid=self.grid, numerator=sums.numerator.cpu(), weight=sums.weight.cpu())
            for sums in (all1, all2)
        ]
        self._maps = [sums.solve() for sums in in_band]
        self.prior_precision = self._prior()
        self._filtered = [sums.solve(self.prior_precision) for sums in in_band]

    def consensus_map(self, half: int) -> Tensor:
        """(d, d, d) unfiltered map of all particles of half 1 or 2, in the small box."""
        return self._maps[half - 1]

    def filtered_map(self, half: int) -> Tensor:
        """(d, d, d) Wiener-filtered map of all particles of half 1 or 2, in the small box, as differences are."""
        return self._filtered[half - 1]

    def _prior(self) -> Tensor:
        """(radius + 1,) one over the power that both halves of the consensus share in each shell; no mean.

        A coefficient of a map is measured by eight points of the grid (oversampled twice, each with its own weight), so
        that this is the prior of a difference with an eighth of the consensus' power. That of all its power would make
        motions stand out more, and what errors of poses leave behind more so: by half and twofold in sets of either.
        """
        h, step = self.grid.half, self.grid.oversampling
        axis = torch.arange(-h, h + 1, dtype=torch.float64) / step
        norm = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, h:] ** 2).sqrt()
        shell = norm.round().long().clamp(max=self.grid.radius + 1).flatten()
        shared = (self._references[0] * self._references[1].conj()).real.double().flatten()
        count = torch.bincount(shell, minlength=self.grid.radius + 2)
        power = torch.bincount(shell, shared, minlength=self.grid.radius + 2) / count
        precision = torch.where(power > 0, 1.0 / power, torch.inf)[: self.grid.radius + 1]
        precision[0] = torch.inf  # the mean density follows the normalisation of the background
        return precision

    def difference(self, sums: BackprojectionSums, half: int, as_if: float = 1.0) -> Tensor:
        """Difference map of a set to the consensus, from the particles of one half.

        Parameters
        ----------
        sums : BackprojectionSums
            Of the particles of the set in this half, to the radius of the comparison or beyond.
        half : int
            1 or 2.
        as_if : float
            The filter is that of a set of so many times the particles. (The map is then smaller by as much.)

        Returns
        -------
        Tensor
            (d, d, d) float32 in the small box.
        """
        beyond = sums.grid.half - self.grid.half
        if beyond < 0 or sums.grid.oversampling != self.grid.oversampling:
            raise ValueError(f"sums on {sums.grid} cannot be compared on {self.grid}")
        edge = slice(beyond, beyond + 2 * self.grid.half + 1)
        core = (edge, edge, slice(0, self.grid.half + 1))
        weight = sums.weight[core].cpu()
        residual = sums.numerator[core].cpu() - weight * self._references[half - 1]
        return replace(sums, grid=self.grid, numerator=residual, weight=as_if * weight).solve(self.prior_precision)

    def products(self, difference1: Tensor, difference2: Tensor) -> Products:
        """Inner products of the two halves' difference maps inside the mask."""
        a, b = (difference1 * self.mask).double(), (difference2 * self.mask).double()
        return Products(float((a * b).sum()), float(a.square().sum()), float(b.square().sum()))

    def correlation(self, difference1: Tensor, difference2: Tensor) -> float:
        """Correlation of the two halves' difference maps inside the mask; 0 when one has no difference at all."""
        return self.products(difference1, difference2).correlation

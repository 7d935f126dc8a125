"""Changes of an expected image that are no change of the molecule: scale, alignment, what filters leave of the mean.

A difference map found in a homogeneous data set can still be real in every image, because images differ in what the
refinement got wrong or the microscope did: particles are stronger or weaker, turned or shifted from the pose they
have. To first and second order in these errors an image of the consensus V changes by

    dX = s X + d (dCTF / d defocus) V + m (slices of x . grad V) + b k^2 X
         + t . (-2 pi i k / D) X + w . (slices of -(x cross grad V)) + (products of two shifts or rotations),

which spans a small space per image. A difference that is looked for in single images is taken outside of that space:
what remains can be no error of scale, defocus, pixel size, blur or pose. Real motions keep a part outside; the part
that a shift or a rotation of the whole particle could make is given up. The unfiltered, the filtered and the masked
consensus all belong to the space, since the difference map is filtered and masked while the images are not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.pose.local import radial_derivative, rotation_derivatives
from cryodrgn_ext.validation.differences import ConsensusComparison

FEWEST_PER_SECOND_ORDER = 4  # coefficients of a set for each parameter, below which second order is left out
SECOND_ORDER_CHANGES = 26
RIDGE = 1e-6  # of each parameter's own power: keeps nearly parallel changes apart


@dataclass(frozen=True)
class ExpectedChanges:
    """Volumes whose slices span the changes of an expected image.

    Attributes
    ----------
    means : tuple of FourierVolume
        The consensus unfiltered, filtered, filtered and masked.
    radial : FourierVolume
        What a pixel of another size makes of the filtered consensus.
    first : tuple of FourierVolume
        The filtered consensus' derivatives with respect to rotations about x, y, z.
    second : tuple of FourierVolume
        Its six second derivatives.
    """

    means: tuple[FourierVolume, ...]
    radial: FourierVolume
    first: tuple[FourierVolume, ...]
    second: tuple[FourierVolume, ...]

    @classmethod
    def of(cls, comparison: ConsensusComparison, half: int, device: torch.device | str) -> ExpectedChanges:
        """Make them from the consensus of half 1 or 2."""

        def transform(volume: Tensor) -> FourierVolume:
            grid = comparison.grid
            return FourierVolume.from_map(volume.to(device), grid.oversampling, grid.radius)

        filtered = comparison.filtered_map(half)
        first = rotation_derivatives(filtered)
        second = [rotation_derivatives(first[a])[b] for a in range(3) for b in range(a, 3)]
        return cls(
            (
                transform(comparison.consensus_map(half)),
                transform(filtered),
                transform(filtered * comparison.mask),
            ),
            transform(radial_derivative(filtered)),
            tuple(transform(volume) for volume in first),
            tuple(transform(volume) for volume in second),
        )

    def images(self, ctf: Tensor, ctf_slope: Tensor, points: Tensor, kxy: Tensor, second_order: bool) -> Tensor:
        """Changes of each expected image, level by level; see :func:`level_sizes`.

        Parameters
        ----------
        ctf : Tensor
            (B, M) of whitened images.
        ctf_slope : Tensor
            (B, M) how it changes with the defocus, in any unit.
        points : Tensor
            (B, M, 3) where images cut the volume.
        kxy : Tensor
            (M, 2) frequencies, cycles per box.
        second_order : bool
            Whether to include products of two errors.

        Returns
        -------
        Tensor
            (B, K, M) complex64, each scaled to a mean square of one.
        """
        step = 2j * math.pi * kxy.to(ctf).T / self.means[0].grid.box_size  # (2, M): what a shift by a pixel does
        cuts = [volume.slice(points) for volume in self.means]
        shown = [ctf * cut for cut in cuts]
        expected = shown[1]
        shown += [ctf_slope * cuts[1], ctf * self.radial.slice(points), kxy.to(ctf).square().sum(1) * expected]
        turned = [ctf * volume.slice(points) for volume in self.first]
        shown += [step[0] * expected, step[1] * expected, *turned]
        if second_order:
            shown += [step[a] * step[b] * expected for a, b in ((0, 0), (0, 1), (1, 1))]
            shown += [step[a] * one for a in (0, 1) for one in turned]
            shown += [ctf * volume.slice(points) for volume in self.second]
        changes = torch.stack(shown, dim=1)
        size = changes.abs().square().mean(dim=(1, 2), keepdim=True)
        scale = changes.abs().square().mean(dim=2, keepdim=True).clamp_min(1e-12 * float(size.max()) + 1e-30)
        return changes * scale.rsqrt()


def level_sizes(n_changes: int) -> tuple[int, ...]:
    """How many of the first changes belong to contrast; to it and optics; to all."""
    return (3, 6, n_changes)


def second_order_fits(n_coefficients: int) -> bool:
    """Whether a set of this many complex coefficients leaves enough beside all changes of second order."""
    return n_coefficients >= FEWEST_PER_SECOND_ORDER * SECOND_ORDER_CHANGES


def outside(pattern: Tensor, changes: Tensor) -> list[Tensor]:
    """Parts of each pattern that no real combination of an image's changes makes: of the first level, of two, of all.

    Parameters
    ----------
    pattern : Tensor
        (B, M) complex.
    changes : Tensor
        (B, K, M) complex.
    """
    normal = torch.einsum("bkm,blm->bkl", changes.conj(), changes).real.double()
    diagonal = torch.diagonal(normal, dim1=1, dim2=2)
    normal = normal + torch.diag_embed(RIDGE * diagonal + 1e-12)
    right = torch.einsum("bkm,bm->bk", changes.conj(), pattern).real.double()
    parts = []
    for size in level_sizes(changes.shape[1]):
        weights = torch.linalg.solve(normal[:, :size, :size], right[:, :size, None])[..., 0].to(pattern.real.dtype)
        parts.append(pattern - torch.einsum("bk,bkm->bm", weights.to(pattern.dtype), changes[:, :size]))
    return parts

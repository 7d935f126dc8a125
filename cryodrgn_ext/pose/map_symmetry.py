"""How far a map has a symmetry: its halves agree as well after each rotation of it as they do before."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryodrgn_ext.fourier.shells import shell_sum
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.pose.found_symmetry import FoundSymmetry
from cryodrgn_ext.pose.refinement import Refined

#: Shells count in which the halves correlate at least so well.
RESOLVED = 0.5
#: Of the correlation of the halves, what is left after any rotation of the symmetry, at least. A map in which a part of
#: the images lies turned over has 2 p (1 - p) / (p² + (1 - p)²) of it where the particle lacks the symmetry: 0.6 with a
#: quarter of them, 0.8 with a third.
KEPT = 0.8


def has_symmetry(refined: Refined, symmetry: FoundSymmetry) -> bool:
    """Whether the halves of a refinement have a symmetry, as far as they are resolved."""
    mask = refined.references.mask
    halves = refined.sums1.solve().to(mask) * mask, refined.sums2.solve().to(mask) * mask
    return symmetry_kept(*halves, symmetry) >= KEPT


def symmetry_kept(half1: Float[Tensor, "D D D"], half2: Float[Tensor, "D D D"], symmetry: FoundSymmetry) -> float:
    """Smallest ratio, over the rotations of a symmetry, of the halves' correlation after it to that before.

    The mean over resolved shells; 0 when no shell is resolved.
    """
    reach = len(half1) // 2 - 1
    axis = torch.arange(-reach, reach + 1)
    kz, ky, kx = torch.meshgrid(axis, axis, axis[reach:], indexing="ij")
    keep = (kx**2 + ky**2 + kz**2 <= reach**2) & (kx**2 + ky**2 + kz**2 > 0)
    points = torch.stack([kx[keep], ky[keep], kz[keep]], dim=1).double()
    shell = points.norm(dim=1).round().long()
    first = FourierVolume.from_map(half1).slice(points.float().to(half1.device))
    second = FourierVolume.from_map(half2)

    def curve(rotation: np.ndarray) -> Tensor:
        """(S,) correlation with the second half after a rotation of the model."""
        turned = second.slice((points @ torch.from_numpy(rotation).T).float().to(half1.device))
        products = torch.stack([(first * turned.conj()).real, first.abs().square(), turned.abs().square()])
        cross, one, other = shell_sum(products.cpu().double(), shell, reach + 1)
        found: Tensor = cross / (one * other).sqrt().clamp_min(1e-30)
        return found

    before = curve(np.eye(3))
    unresolved = (before[1:] < RESOLVED).nonzero()[:, 0]
    last = int(unresolved[0]) if len(unresolved) else reach
    if last < 1:
        return 0.0
    shells = slice(1, last + 1)
    rotations = symmetry.equivalents()
    others = rotations[np.abs(rotations - np.eye(3)).max(axis=(1, 2)) > 1e-6]
    return min(float((curve(rotation)[shells] / before[shells]).mean()) for rotation in others)

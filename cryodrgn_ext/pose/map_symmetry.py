"""How far a map has a symmetry: its halves agree as well after each rotation of it as they do before."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import minimize
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

    The mean over resolved shells, about the centre that suits the symmetry best; 0 when no shell is resolved.
    """
    reach = len(half1) // 2 - 1
    axis = torch.arange(-reach, reach + 1)
    kz, ky, kx = torch.meshgrid(axis, axis, axis[reach:], indexing="ij")
    keep = (kx**2 + ky**2 + kz**2 <= reach**2) & (kx**2 + ky**2 + kz**2 > 0)
    points = torch.stack([kx[keep], ky[keep], kz[keep]], dim=1).double()
    shell = points.norm(dim=1).round().long()
    first, second = (FourierVolume.from_map(half) for half in (half1, half2))
    device = half1.device

    def values(volume: FourierVolume, at: Tensor) -> Tensor:
        return volume.slice(at.float().to(device)).cpu().to(torch.complex128)

    def curve(one: Tensor, other: Tensor) -> Tensor:
        """(S,) correlation over each shell."""
        products = torch.stack([(one * other.conj()).real, one.abs().square(), other.abs().square()])
        cross, power, others = shell_sum(products, shell, reach + 1)
        found: Tensor = cross / (power * others).sqrt().clamp_min(1e-30)
        return found

    mine = values(first, points)
    before = curve(mine, values(second, points))
    unresolved = (before[1:] < RESOLVED).nonzero()[:, 0]
    last = int(unresolved[0]) if len(unresolved) else reach
    if last < 1:
        return 0.0
    rotations = symmetry.equivalents()
    others = rotations[np.abs(rotations - np.eye(3)).max(axis=(1, 2)) > 1e-6]
    turned = [points @ torch.from_numpy(rotation).T for rotation in others]
    theirs = [values(second, at) for at in turned]
    wave = [2.0 * math.pi / len(half1) * (points - at) for at in turned]
    resolved = shell <= last
    centre = _centre(
        [(mine * other.conj())[resolved].numpy() for other in theirs], [one[resolved].numpy() for one in wave]
    )
    shells, kept = slice(1, last + 1), []
    for other, one in zip(theirs, wave, strict=True):
        phase = torch.polar(torch.ones(len(one), dtype=torch.float64), one @ torch.from_numpy(centre))
        kept.append(float((curve(mine * phase, other)[shells] / before[shells]).mean()))
    return min(kept)


def _centre(cross: Sequence[NDArray[np.complex128]], wave: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(3,) place of the centre, in voxels x, y, z from the box's, where a map and its rotated copies agree best.

    With the centre at c the transform is V(k) exp(-2 pi i k.c / D) of a symmetric V, so that the cross spectrum with a
    copy has the phase -(k - S k).c 2 pi / D.
    """
    scale = sum(float(np.abs(one).sum()) for one in cross)

    def lost(centre: NDArray[np.float64]) -> float:
        agreement = sum(float((one * np.exp(1j * (k @ centre))).real.sum()) for one, k in zip(cross, wave, strict=True))
        return -agreement / scale

    found: NDArray[np.float64] = minimize(lost, np.zeros(3), method="BFGS").x
    return found

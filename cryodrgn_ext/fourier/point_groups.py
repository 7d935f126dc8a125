"""Point groups by RELION's names, as rotations of the model, and sums over their copies in Fourier space.

A map with a point group is unchanged by each of its rotations S: V(S x) = V(x), and its transform likewise. Axes are
RELION's (``relion_refine --print_symmetry_ops``):

====== =============================================================================================
Cn     n-fold axis along z
Dn     n-fold axis along z, two-fold along x
T      three-fold axis along z, two-fold in the plane x = 0
O      four-fold axes along x, y and z
I, I2  two-fold axes along x, y and z, five-fold (next to z) in the plane y = 0
I1     the same rotated by 90° about z: five-fold in the plane y = 0 at the negative angle
I3     five-fold axis along z, two-fold (next to z) in the plane y = 0 towards -x
I4     the same towards +x
====== =============================================================================================

Groups with mirror planes are refused: molecules of one hand have none.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Inexact
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryodrgn_ext.errors import InputError

GOLDEN = (1.0 + math.sqrt(5.0)) / 2.0
#: Folds and axes (x, y, z) that generate the groups without a number of their own.
GENERATORS = {
    "T": ((3, (0.0, 0.0, 1.0)), (2, (0.0, math.sqrt(2.0 / 3.0), math.sqrt(1.0 / 3.0)))),
    "O": ((4, (0.0, 0.0, 1.0)), (3, (1.0, 1.0, 1.0))),
    "I1": ((2, (1.0, 0.0, 0.0)), (5, (GOLDEN, 0.0, -1.0))),
    "I2": ((2, (0.0, 0.0, 1.0)), (5, (1.0, 0.0, GOLDEN))),
    "I3": ((5, (0.0, 0.0, 1.0)), (2, (-1.0, 0.0, GOLDEN))),
    "I4": ((5, (0.0, 0.0, 1.0)), (2, (1.0, 0.0, GOLDEN))),
}
SAME = 1e-6  # matrices whose elements differ by less are one
VOXELS_PER_BLOCK = 1 << 21  # bounds the temporaries to about 200 MB


@dataclass(frozen=True, eq=False)
class PointGroup:
    """A finite group of rotations of the model.

    Attributes
    ----------
    name : str
        RELION's, in capitals.
    rotations : ndarray
        (S, 3, 3) float64; they multiply column vectors x, y, z. The identity is the first.
    """

    name: str
    rotations: NDArray[np.float64]

    @property
    def order(self) -> int:
        """Number S of rotations."""
        return len(self.rotations)

    def lattice(self) -> NDArray[np.int64]:
        """(L, 3, 3) those rotations that take grid points to grid points: permutations of the axes, with signs."""
        whole = np.round(self.rotations)
        exact = np.abs(self.rotations - whole).max(axis=(1, 2)) < SAME
        return np.asarray(whole[exact], np.int64)

    def representatives(self) -> NDArray[np.float64]:
        """(S / L, 3, 3) rotations r, the identity first: each of the group is l r with one of them and one l of L."""
        lattice = self.lattice()
        chosen: list[NDArray[np.float64]] = []
        covered = np.empty((0, 3, 3))
        for rotation in self.rotations:
            if len(covered) == 0 or np.abs(covered - rotation).max(axis=(1, 2)).min() > SAME:
                chosen.append(rotation)
                covered = np.concatenate([covered, lattice @ rotation])
        return np.stack(chosen)


def point_group(name: str) -> PointGroup:
    """Return the point group of a name such as C1, C4, D2, T, O, I or I3 (in capitals or not).

    Raises
    ------
    InputError
        When no group of rotations has that name.
    """
    wanted = name.strip().upper()
    numbered = re.fullmatch(r"([CD])([1-9]\d?)", wanted)
    if numbered is not None:
        fold = int(numbered[2])
        generators = [(fold, (0.0, 0.0, 1.0))] + [(2, (1.0, 0.0, 0.0))] * (numbered[1] == "D")
    elif wanted in GENERATORS or wanted == "I":
        generators = list(GENERATORS["I2" if wanted == "I" else wanted])
    else:
        raise InputError(
            f"the symmetry {name!r} is not the name of a point group of rotations: give C1 to C99, D2 to D99, T, O, I "
            "(the same as I2), I1, I2, I3 or I4, with RELION's axes."
        )
    return PointGroup(wanted, _generate([_rotation(fold, axis) for fold, axis in generators]))


def _rotation(fold: int, axis: tuple[float, float, float]) -> NDArray[np.float64]:
    unit = np.array(axis) / np.linalg.norm(axis)
    matrix = np.asarray(Rotation.from_rotvec(unit * (2.0 * math.pi / fold)).as_matrix(), np.float64)
    whole = np.round(matrix)
    return whole if np.abs(matrix - whole).max() < SAME else matrix


def _generate(generators: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """All products of some rotations (S, 3, 3), the identity first."""
    found = [np.eye(3)]
    for rotation in found:  # grows while it is walked through, until nothing new is met
        for generator in generators:
            product = generator @ rotation
            if np.abs(np.stack(found) - product).max(axis=(1, 2)).min() > SAME:
                found.append(product)
    return np.stack(found)


#: No symmetry.
C1 = point_group("C1")


def sum_over_lattice(half_volume: Inexact[Tensor, "Z Z X"], rotations: NDArray[np.int64]) -> Inexact[Tensor, "Z Z X"]:
    """Sum of the copies of a Friedel-symmetric half-volume under rotations that take grid points to grid points.

    Parameters
    ----------
    half_volume : Tensor
        (2 h + 1, 2 h + 1, h + 1) real or complex, axes z, y, x >= 0, with both members of each Friedel pair on the
        plane x = 0.
    rotations : ndarray
        (L, 3, 3) int64 of a group.

    Returns
    -------
    Tensor
        The same shape: at k the sum of the values at every rotation of k. A new tensor unless L is 1.
    """
    if len(rotations) == 1:
        return half_volume
    half, device = half_volume.shape[2] - 1, half_volume.device
    axis = torch.arange(-half, half + 1, device=device)
    out = torch.empty_like(half_volume)
    step = max(1, VOXELS_PER_BLOCK // half_volume[0].numel())
    for start in range(0, len(half_volume), step):
        z, y, x = axis[start : start + step, None, None], axis[None, :, None], axis[None, None, half:]
        total = torch.zeros_like(out[start : start + step])
        for matrix in rotations.tolist():
            i, j, k = (row[0] * x + row[1] * y + row[2] * z for row in matrix)
            sign = torch.where(i < 0, -1, 1)  # the values at x < 0 are the conjugates of their partners'
            values = half_volume[k * sign + half, j * sign + half, i * sign]
            total += torch.where(i < 0, values.conj(), values) if values.is_complex() else values
        out[start : start + step] = total
    return out

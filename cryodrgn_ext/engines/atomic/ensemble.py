"""All atoms of a structure from its residues' moved centres: each residue is carried along as a rigid body.

The turn of a residue is the one that brings its own and its neighbours' centres of the base structure onto the moved
ones best (Kabsch 1976), so that turns change smoothly along the chain and bonds between residues stay nearly as long as
they were.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.atoms.structure import Structure, residue_centres

FloatArray = NDArray[np.float64]

#: Residues on either side that tell a residue's turn.
NEIGHBOURS = 2
#: Weight of no turn at all, in electrons times Å²: settles the turn of ligands of one or two centres.
STIFFNESS = 1e-3


def carried_atoms(structure: Structure, moved: FloatArray, base: FloatArray | None = None) -> FloatArray:
    """Positions (P, A, 3) of all atoms where the centres of residues are ``moved`` (P, C, 3).

    Parameters
    ----------
    structure : Structure
        In its own coordinates, or any other frame: ``moved`` says where it goes.
    moved : ndarray
        (P, C, 3) centres as of :func:`residue_centres`, Å.
    base : ndarray, optional
        (C, 3) where those centres are in the structure itself, if they are not the centres of electrons.
    """
    centres, electrons, residue = residue_centres(structure)
    centres = centres if base is None else base
    chain = structure.chain
    count = len(chain)
    mass = np.bincount(residue, electrons, count)

    def of_residues(values: FloatArray) -> FloatArray:
        """Sums (R, ...) of values (C, ...) over each residue and its neighbours in the chain."""
        own = np.zeros((count, *values.shape[1:]))
        np.add.at(own, residue, values)
        total = own.copy()
        for step in range(1, min(NEIGHBOURS, count - 1) + 1):
            same = (chain[step:] == chain[:-step]).reshape(-1, *[1] * (values.ndim - 1))
            total[step:] += own[:-step] * same
            total[:-step] += own[step:] * same
        return total

    def of_own(values: FloatArray) -> FloatArray:
        """Means (R, 3) of centres (C, 3) of each residue."""
        return np.stack([np.bincount(residue, electrons * axis, count) for axis in values.T], axis=1) / mass[:, None]

    weight = of_residues(electrons)
    out = np.empty((len(moved), *structure.positions.shape))
    base_mean = of_residues(electrons[:, None] * centres) / weight[:, None]
    own_base = of_own(centres)
    for number, positions in enumerate(moved):
        mean = of_residues(electrons[:, None] * positions) / weight[:, None]
        outer = of_residues(electrons[:, None, None] * positions[:, :, None] * centres[:, None, :])
        outer -= weight[:, None, None] * mean[:, :, None] * base_mean[:, None, :]
        left, _, right = np.linalg.svd(outer + STIFFNESS * np.eye(3))
        left[:, :, 2] *= np.sign(np.linalg.det(left @ right))[:, None]
        turn = left @ right
        own = of_own(positions)
        offset = structure.positions - own_base[structure.residue]
        out[number] = np.einsum("aij,aj->ai", turn[structure.residue], offset) + own[structure.residue]
    return out

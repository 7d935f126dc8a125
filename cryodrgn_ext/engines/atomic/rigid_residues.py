"""All heavy atoms of a structure as rigid residues, each with a frame that a 9-vector moves (Rosenbaum et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.atoms.backbone import Backbone
from cryodrgn_ext.atoms.structure import Structure, residue_centres

FloatArray = NDArray[np.float64]

#: What of a frame the identity is: no shift, and the axes x and y.
IDENTITY = (0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def gram_schmidt(first: Float[Tensor, "*b 3"], second: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Rotations (..., 3, 3) whose columns are two vectors (..., 3) made orthonormal, and their cross product."""
    one = first / first.norm(dim=-1, keepdim=True).clamp_min(1e-8)
    rest = second - one * (one * second).sum(-1, keepdim=True)
    other = rest / rest.norm(dim=-1, keepdim=True).clamp_min(1e-8)
    return torch.stack([one, other, torch.linalg.cross(one, other)], dim=-1)


@dataclass(frozen=True)
class RigidResidues:
    """Atoms in the frames of their residues.

    Attributes
    ----------
    rotation, origin_A : Tensor
        (R, 3, 3) and (R, 3) frames of the base structure: N, Cα, C of amino acids; axes of the map elsewhere.
    local_A : Tensor
        (A, 3) atoms in them.
    residue : Tensor
        (A,) int64.
    electrons : Tensor
        (A,).
    bonds : Tensor
        (P, 2) int64 atoms of bonds between residues: C to N, O3' to P.
    bond_A : Tensor
        (P,) their lengths in the structure.
    structure : Structure
    """

    rotation: Float[Tensor, "R 3 3"]
    origin_A: Float[Tensor, "R 3"]
    local_A: Float[Tensor, "A 3"]
    residue: Int64[Tensor, " A"]
    electrons: Float[Tensor, " A"]
    bonds: Int64[Tensor, "P 2"]
    bond_A: Float[Tensor, " P"]
    structure: Structure

    @classmethod
    def of(cls, structure: Structure) -> RigidResidues:
        """Frames of a structure that lies in the frame of a map."""
        positions = torch.from_numpy(structure.positions).float()
        centres, _, residue = residue_centres(structure)
        points = Backbone.of(structure).atom
        origin = centres[np.searchsorted(residue, np.arange(len(points)))].copy()
        origin[points >= 0] = structure.positions[points[points >= 0]]
        rotation = np.tile(np.eye(3), (len(points), 1, 1))
        names = _atoms_by_name(structure)
        for number, atoms in enumerate(names):
            if {"N", "CA", "C"} <= atoms.keys():
                n, alpha, c = (positions[atoms[name]] for name in ("N", "CA", "C"))
                rotation[number] = gram_schmidt(c - alpha, n - alpha).numpy()
        bonds = _bonds(structure, names)
        turned = torch.from_numpy(rotation).float()
        of_atom = torch.from_numpy(structure.residue)
        start = torch.from_numpy(origin).float()
        local = (turned[of_atom].mT @ (positions - start[of_atom])[..., None])[..., 0]
        length = (positions[bonds[:, 0]] - positions[bonds[:, 1]]).norm(dim=1)
        electrons = torch.from_numpy(structure.electrons).float()
        return cls(turned, start, local, of_atom, electrons, bonds, length, structure)

    def moved(self, vector: Float[Tensor, "*b R 9"]) -> Float[Tensor, "*b A 3"]:
        """Atoms (..., A, 3) where frames move by 9-vectors (..., R, 9): a shift in Å and two vectors, in the frame."""
        # Sums, not matmul: a product for each of many matrices of 3 by 3 is slow.
        turn = gram_schmidt(vector[..., 3:6], vector[..., 6:])
        turn = (self.rotation[..., :, None] * turn[..., None, :, :]).sum(-2)
        origin = self.origin_A + (self.rotation * vector[..., None, :3]).sum(-1)
        of_atom = turn.index_select(-3, self.residue)
        return (of_atom * self.local_A[:, None]).sum(-1) + origin.index_select(-2, self.residue)

    def continuity(self, positions: Float[Tensor, "*b A 3"]) -> Float[Tensor, "*b"]:
        """Mean squared deviation (...), Å², of bonds between residues from those of the structure."""
        if not len(self.bonds):
            return positions.sum((-1, -2)) * 0
        length = (positions[..., self.bonds[:, 0], :] - positions[..., self.bonds[:, 1], :]).norm(dim=-1)
        squared: Tensor = (length - self.bond_A).square()
        return squared.mean(-1)

    def off_centre(self, positions: Float[Tensor, "*b A 3"]) -> Float[Tensor, "*b"]:
        """Squared distance (...), Å², of the mean position from that of the structure."""
        middle = torch.from_numpy(self.structure.positions.mean(axis=0)).to(positions.dtype)
        return (positions.mean(-2) - middle).square().sum(-1)

    def centres(self, positions: FloatArray) -> FloatArray:
        """Centres (P, C, 3) of :func:`residue_centres` where the atoms are at ``positions`` (P, A, 3)."""
        return np.stack([residue_centres(replace(self.structure, positions=one))[0] for one in positions])


def _atoms_by_name(structure: Structure) -> list[dict[str, int]]:
    """Of each residue the index of each of its atoms, by name."""
    names: list[dict[str, int]] = []
    start = 0
    for chain in structure.source[0]:
        for residue in chain:
            names.append({atom.name.replace("*", "'"): start + place for place, atom in enumerate(residue)})
            start += len(residue)
    return names


def _bonds(structure: Structure, names: list[dict[str, int]]) -> Tensor:
    """(P, 2) int64 atoms of the bonds between neighbours, as :class:`Backbone` has neighbours."""
    ends = (("C", "N"), ("O3'", "P"))
    neighbours = {tuple(pair) for pair in Backbone.of(structure).bonds.tolist()}
    found = [
        (one[last], other[first])
        for place, (one, other) in enumerate(pairwise(names))
        for last, first in ends
        if (place, place + 1) in neighbours and last in one and first in other and ("CA" in other) == (first == "N")
    ]
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 2)

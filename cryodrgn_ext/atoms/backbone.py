"""The chain of a structure by one point for each residue, and the bonds between neighbours along it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import gemmi
import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.atoms.structure import Structure, is_amino_acid, residue_centres

#: Cα to Cα of a trans peptide, Å (Zhong 2022, 7.3.1).
ALPHA_STEP_A = 3.8
#: Phosphorus to phosphorus, Å, with the sugar as in A-form RNA (C3'-endo) and in B-form DNA (C2'-endo): Saenger,
#: Principles of Nucleic Acid Structure, 1984.
RNA_STEP_A, DNA_STEP_A = 5.9, 7.0
ALPHA, PHOSPHORUS, SUGAR = "CA", "P", "C4'"


@dataclass(frozen=True)
class Backbone:
    """One point for each residue.

    Attributes
    ----------
    atom : ndarray
        (R,) int64 atom of the point: Cα, phosphorus (C4' where a strand begins without one); -1 for ligands, glycans
        and residues that lack the atom.
    bonds : ndarray
        (P, 2) int64 residues that are neighbours along a chain of amino acids or of nucleotides.
    length_A : ndarray
        (P,) length of each bond: that of all such bonds where both points are of the usual atom, else that of the
        structure.
    """

    atom: NDArray[np.int64]
    bonds: NDArray[np.int64]
    length_A: NDArray[np.float64]

    @classmethod
    def of(cls, structure: Structure) -> Backbone:
        """Points and bonds; none across a gap in the numbering."""
        residues = list(_residues(structure))
        atom = np.array([index for _, _, index, _ in residues], dtype=np.int64)
        centres, _, residue = residue_centres(structure)
        points = centres[np.searchsorted(residue, np.arange(len(residues)))].copy()
        points[atom >= 0] = structure.positions[atom[atom >= 0]]
        bonds, length_A = [], []
        for place, (first, second) in enumerate(pairwise(residues)):
            step = _step_A(first, second)
            if step is None:
                continue
            bonds.append((place, place + 1))
            length_A.append(step or float(np.linalg.norm(points[place + 1] - points[place])))
        return cls(atom, np.array(bonds, np.int64).reshape(-1, 2), np.array(length_A, np.float64))


_Point = tuple[int, gemmi.Residue, int, str]


def _residues(structure: Structure) -> Iterator[_Point]:
    """Chain, residue, index of the atom of its point (-1 for none) and the atom's name, of each residue."""
    start = 0
    for number, chain in enumerate(structure.source[0]):
        for residue in chain:
            names = [atom.name.replace("*", "'") for atom in residue]
            wanted = (ALPHA,) if is_amino_acid(residue) else (PHOSPHORUS, SUGAR) if is_nucleotide(residue) else ()
            found = next((name for name in wanted if name in names), "")
            yield number, residue, start + names.index(found) if found else -1, found
            start += len(names)


def is_nucleotide(residue: gemmi.Residue) -> bool:
    """Whether a residue is of DNA or RNA, by its name."""
    return bool(gemmi.find_tabulated_residue(residue.name).is_nucleic_acid())


def _step_A(first: _Point, second: _Point) -> float | None:
    """Length of the bond of neighbours, 0 where it is the structure's own, None where there is none."""
    same_chain = first[0] == second[0]
    a, b = (residue.seqid.num for residue in (first[1], second[1]))
    if not same_chain or min(first[2], second[2]) < 0 or (a is not None and b is not None and not 0 <= b - a <= 1):
        return None
    if first[3] == second[3] == ALPHA:
        return ALPHA_STEP_A
    if ALPHA in (first[3], second[3]):
        return None
    if first[3] != PHOSPHORUS or second[3] != PHOSPHORUS:
        return 0.0
    kind = gemmi.find_tabulated_residue(first[1].name).kind
    return DNA_STEP_A if kind == gemmi.ResidueKind.DNA else RNA_STEP_A

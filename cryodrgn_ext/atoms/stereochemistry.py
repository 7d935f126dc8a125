"""How like a real molecule a structure is: bonds, angles and clashes against its own chemistry, and Ramachandran.

Bonds and angles are compared with those of a reference, usually the structure that a fit began with: what a fit did to
them is then told apart from what was in the file. Backbone torsions come from gemmi; which of them are allowed is read
from coarse regions, see :data:`ALLOWED`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import gemmi
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from cryodrgn_ext.atoms.structure import Structure, is_amino_acid

FloatArray = NDArray[np.float64]

#: Two heavy atoms are bonded within their covalent radii and this, Å (Meng & Lewis 1991); none is longer than 2.6.
TOLERANCE_A, LONGEST_BOND_A = 0.4, 2.6
#: Heavy atoms nearer than this that are no neighbours within three bonds clash, Å: the shortest hydrogen bonds are 2.5.
CLASH_A = 2.4
#: Peptide bond C-N: beyond half as much again a chain is broken.
BROKEN_A = 2.0
#: Boxes (phi, psi in degrees, from and to) outside of which hardly any residue but glycine lies: Ramachandran and
#: Sasisekharan 1968 (the outer limits of strand, right-handed and left-handed helix).
ALLOWED = (
    (-180, -35, 60, 180), (-180, -35, -180, -150), (-180, -25, -90, 60), (35, 85, -10, 100), (160, 180, 90, 180),
)  # fmt: skip


@dataclass(frozen=True)
class Chemistry:
    """What of a structure's geometry is known: pairs and triples of atoms.

    Attributes
    ----------
    bonds : ndarray
        (B, 2) int64.
    angles : ndarray
        (A, 3) int64, the middle atom second.
    near : frozenset of (int, int)
        Pairs within three bonds, lower atom first.
    """

    bonds: NDArray[np.int64]
    angles: NDArray[np.int64]
    near: frozenset[tuple[int, int]]

    @classmethod
    def of(cls, structure: Structure) -> Chemistry:
        """Bonds within residues and between neighbours, by the distances in the structure itself."""
        radius = np.array([site.atom.element.covalent_r for site in structure.source[0].all()])
        pairs = KDTree(structure.positions).query_pairs(LONGEST_BOND_A, output_type="ndarray").reshape(-1, 2)
        pairs = pairs[_lengths(structure.positions, pairs) < radius[pairs].sum(axis=1) + TOLERANCE_A]
        residue = structure.residue
        apart = np.abs(residue[pairs[:, 0]] - residue[pairs[:, 1]])
        same = structure.chain[residue[pairs[:, 0]]] == structure.chain[residue[pairs[:, 1]]]
        bonds = np.sort(pairs[same & (apart <= 1)].astype(np.int64), axis=1)
        bonded: list[set[int]] = [set() for _ in residue]
        for a, b in bonds.tolist():
            bonded[a].add(b)
            bonded[b].add(a)
        angles = [(a, middle, b) for middle, around in enumerate(bonded) for a in around for b in around if a < b]
        near = {(min(a, d), max(a, d)) for a, b in bonds.tolist() for x, y in ((a, b), (b, a))
                for d in _reach(bonded, x, y)}  # fmt: skip
        near |= {(a, b) if a < b else (b, a) for a, _, b in angles} | {(a, b) for a, b in bonds.tolist()}
        return cls(bonds, np.array(angles, np.int64).reshape(-1, 3), frozenset(near))


def _reach(bonded: list[set[int]], first: int, second: int) -> Iterator[int]:
    """Atoms three bonds away from ``first`` through ``second``."""
    for third in bonded[second]:
        if third != first:
            yield from (fourth for fourth in bonded[third] if fourth not in (first, second))


@dataclass(frozen=True)
class Stereochemistry:
    """Figures of one structure.

    Attributes
    ----------
    bond_A, angle_deg : float
        Root mean square differences from the reference.
    broken : int
        Peptide and phosphate bonds that are longer than 2 Å and were not in the reference.
    clashes : int
        Pairs of heavy atoms of no common bonds nearer than 2.4 Å.
    disallowed : int
        Residues other than glycine outside of the allowed regions of phi and psi, of ``torsions``.
    torsions : int
        Residues with both angles, without glycine.
    """

    bond_A: float
    angle_deg: float
    broken: int
    clashes: int
    disallowed: int
    torsions: int

    def row(self) -> tuple[str, ...]:
        """As a table shows it."""
        share = f"{100 * self.disallowed / self.torsions:.1f} %" if self.torsions else "none"
        return (f"{self.bond_A:.2f}", f"{self.angle_deg:.1f}", str(self.broken), str(self.clashes), share)


HEADINGS = ("bonds (Å)", "angles (°)", "broken", "clashes", "disallowed phi, psi")


def stereochemistry(structure: Structure, positions: FloatArray, chemistry: Chemistry) -> Stereochemistry:
    """Figures of atoms at positions (A, 3), against the reference ``structure`` that ``chemistry`` is of."""
    base = structure.positions
    lengths, own = (_lengths(one, chemistry.bonds) for one in (positions, base))
    turns, before = (_angles(one, chemistry.angles) for one in (positions, base))
    between = structure.residue[chemistry.bonds[:, 0]] != structure.residue[chemistry.bonds[:, 1]]
    close = KDTree(positions).query_pairs(CLASH_A, output_type="ndarray").reshape(-1, 2)
    clashes = sum(pair not in chemistry.near for pair in map(tuple, np.sort(close, axis=1).tolist()))
    phi_psi = ramachandran(structure, positions)
    return Stereochemistry(
        _rms(lengths - own), _rms(turns - before), int((between & (lengths > BROKEN_A) & (own <= BROKEN_A)).sum()),
        clashes, int((~allowed(phi_psi)).sum()), len(phi_psi),
    )  # fmt: skip


def chain_breaks(structure: Structure) -> int:
    """Bonds between residues of consecutive numbers (C to N, O3' to P) that are longer than :data:`BROKEN_A`."""
    breaks = start = 0
    for chain in structure.source[0]:
        ends: tuple[int | None, dict[str, int]] = (None, {})
        for residue in chain:
            atoms = {atom.name.replace("*", "'"): start + place for place, atom in enumerate(residue)}
            start += len(residue)
            number, before = residue.seqid.num, ends
            ends = (number, atoms)
            if number is None or before[0] is None or number != before[0] + 1:
                continue
            for last, first in (("C", "N"), ("O3'", "P")):
                if last in before[1] and first in atoms and (last == "O3'" or is_amino_acid(residue)):
                    pair = structure.positions[[before[1][last], atoms[first]]]
                    breaks += bool(np.linalg.norm(pair[0] - pair[1]) > BROKEN_A)
    return breaks


def ramachandran(structure: Structure, positions: FloatArray) -> FloatArray:
    """Angles phi, psi (T, 2) in degrees of all residues but glycine that have both, by gemmi."""
    model = structure.source[0].clone()
    for index, site in enumerate(model.all()):
        site.atom.pos = gemmi.Position(*positions[index])
    found = []
    for chain in model:
        residues = [residue for residue in chain if is_amino_acid(residue)]
        for before, (here, after) in zip(residues, pairwise(residues[1:]), strict=False):
            numbers = [one.seqid.num or 0 for one in (before, here, after)]
            if here.name == "GLY" or numbers[2] - numbers[0] > 2:
                continue
            angles = gemmi.calculate_phi_psi(before, here, after)
            if not any(map(math.isnan, angles)):
                found.append(np.rad2deg(angles))
    return np.array(found, np.float64).reshape(-1, 2)


def allowed(phi_psi: FloatArray) -> NDArray[np.bool_]:
    """(T,) whether angles (T, 2) in degrees lie in an allowed region."""
    phi, psi = phi_psi.T
    inside = np.zeros(len(phi_psi), bool)
    for phi_low, phi_high, psi_low, psi_high in ALLOWED:
        inside |= (phi >= phi_low) & (phi <= phi_high) & (psi >= psi_low) & (psi <= psi_high)
    return inside


def _lengths(positions: FloatArray, pairs: NDArray[np.int64]) -> FloatArray:
    lengths: FloatArray = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1)
    return lengths


def _angles(positions: FloatArray, triples: NDArray[np.int64]) -> FloatArray:
    one, other = (positions[triples[:, side]] - positions[triples[:, 1]] for side in (0, 2))
    cosine = (one * other).sum(1) / np.maximum(np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1), 1e-12)
    degrees: FloatArray = np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))
    return degrees


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.square(values).mean())) if len(values) else 0.0

"""Bonds, angles, clashes and torsions of built geometries, torsions against a dihedral by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryodrgn_ext.atoms.stereochemistry import Chemistry, allowed, chain_breaks, ramachandran, stereochemistry
from cryodrgn_ext.atoms.structure import Structure, read_structure

#: Bond lengths (Å) and angles (degrees) about N, CA and C (Engh and Huber 1991).
LENGTHS = {"N": 1.33, "CA": 1.46, "C": 1.52}
ANGLES = {"N": 121.7, "CA": 111.0, "C": 117.2}


def _placed(a: np.ndarray, b: np.ndarray, c: np.ndarray, length: float, angle: float, torsion: float) -> np.ndarray:
    """The next atom of a chain a, b, c (natural extension reference frame)."""
    along = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, along)
    normal /= np.linalg.norm(normal)
    bend, turn = np.deg2rad([angle, torsion])
    local = length * np.array([-np.cos(bend), np.sin(bend) * np.cos(turn), np.sin(bend) * np.sin(turn)])
    placed: np.ndarray = c + local @ np.array([along, np.cross(normal, along), normal])
    return placed


def _chain(path: Path, phi: float, psi: float, residues: int = 8) -> Structure:
    """Main chain of alanines with the same torsions everywhere, and trans peptides."""
    atoms = [np.array([0.0, 0.0, 0.0]), np.array([1.46, 0.0, 0.0]), np.array([2.0, 1.42, 0.0])]
    names = ["N", "CA", "C"]
    for _ in range(residues - 1):
        for name, torsion, bend in (("N", psi, "C"), ("CA", 180.0, "N"), ("C", phi, "CA")):
            before = {"N": "C", "CA": "N", "C": "CA"}[name]
            assert before == bend
            a, b, c = atoms[-3:]
            atoms.append(_placed(a, b, c, LENGTHS[name], ANGLES[before], torsion))
            names.append(name)
    rows = [
        f"ATOM  {i + 1:5d}  {name:<3s} ALA A{i // 3 + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}{1.0:6.2f}{20.0:6.2f}"
        f"          {name[0]:>2s}"
        for i, (name, (x, y, z)) in enumerate(zip(names, atoms, strict=True))
    ]
    path.write_text("\n".join([*rows, "END\n"]))
    return read_structure(path)


@pytest.mark.parametrize(
    ("phi", "psi", "fine"), [(-57, -47, True), (-120, 130, True), (60, 45, True), (75, -65, False)]
)
def test_torsions_are_those_that_the_chain_was_built_with(tmp_path: Path, phi: float, psi: float, fine: bool) -> None:
    structure = _chain(tmp_path / "chain.pdb", phi, psi)
    found = ramachandran(structure, structure.positions)
    assert len(found) == 6
    np.testing.assert_allclose(found, np.tile([phi, psi], (6, 1)), atol=0.5)
    assert allowed(found).all() == fine
    report = stereochemistry(structure, structure.positions, Chemistry.of(structure))
    assert (report.disallowed == 0) == fine
    assert report.torsions == 6


def test_bonds_and_angles_of_a_chain_are_found(tmp_path: Path) -> None:
    structure = _chain(tmp_path / "chain.pdb", -120, 130)
    chemistry = Chemistry.of(structure)
    np.testing.assert_array_equal(np.unique(chemistry.bonds, axis=0), [(i, i + 1) for i in range(23)])
    assert {tuple(row) for row in chemistry.angles.tolist()} == {(i, i + 1, i + 2) for i in range(22)}
    assert chemistry.near == {(i, j) for i in range(24) for j in range(i + 1, min(i + 4, 24))}


def test_what_a_fit_did_is_told_apart(tmp_path: Path) -> None:
    structure = _chain(tmp_path / "chain.pdb", -120, 130)
    chemistry = Chemistry.of(structure)
    turned = structure.positions @ Rotation.random(random_state=0).as_matrix().T + 5
    same = stereochemistry(structure, turned, chemistry)
    assert (same.broken, same.clashes, same.disallowed) == (0, 0, 0)
    assert max(same.bond_A, same.angle_deg) < 1e-3
    stretched = stereochemistry(structure, 1.1 * structure.positions, chemistry)
    assert stretched.bond_A == pytest.approx(
        0.1 * np.sqrt(np.mean([1.33**2] * 7 + [1.46**2] * 8 + [1.52**2] * 8)), 1e-2
    )
    assert stretched.angle_deg < 1e-3
    torn = structure.positions.copy()
    torn[12:] += 3.0
    assert stereochemistry(structure, torn, chemistry).broken == 1
    assert chain_breaks(structure) == 0
    assert chain_breaks(replace(structure, positions=torn)) == 1
    folded = structure.positions.copy()
    folded[23] = folded[0] + [0.0, 0.0, 1.5]
    assert stereochemistry(replace(structure), folded, chemistry).clashes >= 1

"""Structures: what is read, what is told, what is refused, and ensembles read back."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest

from cryodrgn_ext.atoms.structure import read_structure, residue_centres, write_ensemble
from cryodrgn_ext.errors import InputError


def _atom(serial: int, name: str, residue: str, number: int, x: float) -> str:
    return (
        f"ATOM  {serial:5d}  {name:<3s} {residue:>3s} A{number:4d}    "
        f"{x:8.3f}{0.0:8.3f}{0.5:8.3f}{1.0:6.2f}{20.0:6.2f}          {name[0]:>2s}"
    )


def _chain(tmp_path: Path, scale: float = 1.0, numbers: tuple[int, ...] = (1, 2, 3)) -> Path:
    """Three residues ALA, GLY, ALA along x, the last without its side chain."""
    rows: list[str] = []
    for index, (number, residue) in enumerate(zip(numbers, ("ALA", "GLY", "ALA"), strict=True)):
        names = ("N", "CA", "C", "O", "CB") if index == 0 else ("N", "CA", "C", "O")
        for place, name in enumerate(names):
            x = scale * (3.8 * index + 0.2 * place)
            rows.append(_atom(len(rows) + 1, name, residue, number, x))
    path = tmp_path / "chain.pdb"
    path.write_text("\n".join([*rows, "END\n"]))
    return path


def test_centres_hold_all_electrons(tmp_path: Path) -> None:
    structure = read_structure(_chain(tmp_path))
    centres, electrons, residue = residue_centres(structure)
    assert residue.tolist() == [0, 0, 1, 2]
    assert electrons.tolist() == [27, 6, 27, 27]  # N, C, C, O; C
    np.testing.assert_allclose(centres[1], [0.8, 0, 0.5])
    assert any("1 residues have no side chain" in remark for remark in structure.remarks)


def test_residues_that_a_force_field_named_are_amino_acids(tmp_path: Path) -> None:
    path = _chain(tmp_path)
    path.write_text(path.read_text().replace("GLY", "HSD"))
    structure = read_structure(path)
    assert structure.backbone.tolist() == [True] * 4 + [False] + [True] * 8
    assert not any("gaps" in remark for remark in structure.remarks)


def test_gaps_are_told(tmp_path: Path) -> None:
    assert any("1 gaps" in remark for remark in read_structure(_chain(tmp_path, numbers=(1, 2, 9))).remarks)


def test_one_of_alternative_locations_stays_and_counts_whole(tmp_path: Path) -> None:
    path = _chain(tmp_path)
    rows = path.read_text().splitlines()
    first, second = (rows[4][:16] + name + rows[4][17:54] + "  0.50" + rows[4][60:] for name in "AB")
    path.write_text("\n".join([*rows[:4], first, second, *rows[5:]]) + "\n")
    structure = read_structure(path)
    assert structure.electrons.tolist() == [7, 6, 6, 8, 6, *[7, 6, 6, 8] * 2]
    assert any("2 atoms have alternative locations" in remark for remark in structure.remarks)


def test_nanometres_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"0\.38 apart.*multiply them by 10"):
        read_structure(_chain(tmp_path, scale=0.1))


@pytest.mark.parametrize("text", ["", "END\n", "this is no structure\n"])
def test_no_atoms_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "empty.pdb"
    path.write_text(text)
    with pytest.raises(InputError, match=r"empty\.pdb"):
        read_structure(path)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        read_structure(tmp_path / "absent.cif")


@pytest.mark.parametrize("name", ["ensemble.pdb", "ensemble.cif"])
def test_ensembles_are_read_back(tmp_path: Path, name: str) -> None:
    structure = read_structure(_chain(tmp_path))
    moved = [structure.positions, structure.positions + np.array([1.0, -2.0, 3.0])]
    write_ensemble(tmp_path / name, structure, moved, b_factors=np.array([1.0, 2.0, 3.0]))
    back = gemmi.read_structure(str(tmp_path / name))
    assert len(back) == 2
    for model, expected in zip(back, moved, strict=True):
        sites = list(model.all())
        np.testing.assert_allclose([site.atom.pos.tolist() for site in sites], expected, atol=1e-3)
        assert [site.atom.b_iso for site in sites] == [1.0] * 5 + [2.0] * 4 + [3.0] * 4
    assert [(r.name, r.seqid.num) for r in back[0]["A"]] == [("ALA", 1), ("GLY", 2), ("ALA", 3)]

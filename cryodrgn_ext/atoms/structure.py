"""Reads an atomic structure as arrays and writes ensembles of it, PDB or mmCIF, through gemmi.

What the file says beside coordinates (names, chains, ligands, glycans) stays in gemmi's own model and is written
back with every member of an ensemble.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.durable_files import atomic_write_text
from cryodrgn_ext.errors import InputError

#: Atoms of the main chain: of proteins, and the sugar and phosphate of nucleic acids.
PROTEIN_BACKBONE = frozenset({"N", "CA", "C", "O", "OXT"})
PLAUSIBLE_CA_STEP = (1.9, 7.6)  # Å: half and twice the 3.8 Å of a trans peptide, far from both 0.38 and 38
MMCIF_SUFFIXES = frozenset({".cif", ".mmcif"})


@dataclass(frozen=True)
class Structure:
    """One model's heavy atoms without water, in the order of the file.

    Attributes
    ----------
    source : gemmi.Structure
        The same atoms with all their names, one model.
    positions : ndarray
        (A, 3) x, y, z in Å, float64.
    electrons : ndarray
        (A,) electrons of the neutral atom times its occupancy.
    residue : ndarray
        (A,) index of the residue of each atom, 0 to R - 1.
    backbone : ndarray
        (A,) True for atoms of the main chain of proteins and nucleic acids.
    chain : ndarray
        (R,) index of the chain of each residue.
    remarks : tuple of str
        What of the file was left out or looked unusual, one sentence each.
    """

    source: gemmi.Structure
    positions: NDArray[np.float64]
    electrons: NDArray[np.float64]
    residue: NDArray[np.int64]
    backbone: NDArray[np.bool_]
    chain: NDArray[np.int64]
    remarks: tuple[str, ...]


def read_structure(path: Path) -> Structure:
    """Read the first model of a PDB or mmCIF file.

    Raises
    ------
    InputError
        When the file cannot be read, holds no atoms, or holds coordinates that are not in Å.
    """
    try:
        source = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"{path}: not a readable PDB or mmCIF file ({error}); give a structure in either.") from None
    remarks = _simplify(source)
    if len(source) == 0 or source[0].count_atom_sites() == 0:
        raise InputError(f"{path}: no atoms besides hydrogens and water; give a PDB or mmCIF file of a structure.")
    structure = _as_arrays(source, remarks)
    if not np.isfinite(structure.positions).all():
        atom = int(np.flatnonzero(~np.isfinite(structure.positions).all(axis=1))[0])
        raise InputError(f"{path}: atom {atom + 1} has a coordinate that is not a number; repair the file.")
    _check_unit(structure, path)
    return structure


def residue_centres(structure: Structure) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return the two centres of each residue: its main chain's and its side chain's, weighted by electrons.

    A residue without one of the two (glycine, a ligand, a side chain that was not built) has one centre.

    Returns
    -------
    tuple of ndarray
        (C, 3) centres in Å, (C,) electrons of each, (C,) index of its residue; in order of residues, the main chain
        first. The electrons add up to those of all atoms.
    """
    group = 2 * structure.residue + ~structure.backbone
    present, member = np.unique(group, return_inverse=True)
    electrons = np.bincount(member, weights=structure.electrons).astype(np.float64)
    weighted = [np.bincount(member, weights=structure.electrons * axis) for axis in structure.positions.T]
    return np.stack(weighted, axis=1) / electrons[:, None], electrons, present // 2


def residue_widths(structure: Structure) -> NDArray[np.float64]:
    """Return the width (C,) in Å of the atoms about each centre of :func:`residue_centres`.

    The standard deviation along an axis, weighted by electrons and averaged over the axes; 0 for a centre of one atom.
    """
    centres, electrons, _ = residue_centres(structure)
    _, member = np.unique(2 * structure.residue + ~structure.backbone, return_inverse=True)
    squared = ((structure.positions - centres[member]) ** 2).sum(axis=1) / 3
    widths: NDArray[np.float64] = np.sqrt(np.bincount(member, weights=structure.electrons * squared) / electrons)
    return widths


def write_ensemble(
    path: Path,
    structure: Structure,
    positions: Sequence[NDArray[np.float64]] | NDArray[np.float64],
    b_factors: NDArray[np.float64] | None = None,
) -> None:
    """Write structures as the models 1, 2, ... of one file; ``.cif`` or ``.mmcif`` is mmCIF, anything else PDB.

    Parameters
    ----------
    path : Path
        The file; it appears whole or not at all.
    structure : Structure
        Names, chains and residues of the atoms.
    positions : sequence of ndarray
        (A, 3) in Å for each model.
    b_factors : ndarray, optional
        (R,) a value for each residue, in place of the B-factors that were read.

    Raises
    ------
    InputError
        When the PDB format cannot hold the structure.
    """
    ensemble = structure.source.clone()
    del ensemble[0]
    for number, coordinates in enumerate(positions, start=1):
        ensemble.add_model(_moved_model(structure, number, np.asarray(coordinates), b_factors))
    if path.suffix.lower() in MMCIF_SUFFIXES:
        ensemble.setup_entities()
        atomic_write_text(path, ensemble.make_mmcif_document().as_string())
        return
    long_names = [chain.name for chain in structure.source[0] if len(chain.name) > 2]
    if long_names:
        raise InputError(f"{path}: the PDB format cannot hold the chain name {long_names[0]}; write a .cif file.")
    atomic_write_text(path, ensemble.make_pdb_string())


def _moved_model(
    structure: Structure, number: int, coordinates: NDArray[np.float64], b_factors: NDArray[np.float64] | None
) -> gemmi.Model:
    """Give the model's atoms new coordinates, and their residues' B-factors."""
    if coordinates.shape != structure.positions.shape:
        raise ValueError(f"positions of shape {structure.positions.shape} expected, got {coordinates.shape}")
    model = structure.source[0].clone()
    model.num = number
    for index, site in enumerate(model.all()):
        site.atom.pos = gemmi.Position(*coordinates[index])
        if b_factors is not None:
            site.atom.b_iso = float(b_factors[structure.residue[index]])
    return model


def _simplify(source: gemmi.Structure) -> tuple[str, ...]:
    """Reduce to one model, one location of each atom, no hydrogens and no water; say what was left out."""
    remarks = []
    if len(source) > 1:
        remarks.append(f"{len(source)} models; the first is used.")
        while len(source) > 1:
            del source[1]
    alternatives = [site.atom for model in source for site in model.all() if site.atom.has_altloc()]
    for atom in alternatives:
        atom.occ = 1.0  # the one that stays stands for all
    if alternatives:
        remarks.append(f"{len(alternatives)} atoms have alternative locations; the first location of each is used.")
    source.remove_alternative_conformations()
    source.remove_hydrogens()
    source.remove_waters()
    source.remove_empty_chains()
    source.setup_entities()
    return tuple(remarks)


def is_amino_acid(residue: gemmi.Residue) -> bool:
    """Tell by the residue's name, or by its atoms: force fields have names of their own (HSD, CYX, ASPP)."""
    tabulated = gemmi.find_tabulated_residue(residue.name).is_amino_acid()
    return tabulated or {atom.name for atom in residue} >= {"N", "CA", "C"}


def _is_backbone(residue: gemmi.Residue, atom: gemmi.Atom) -> bool:
    """Tell main chain from side chain by the atom's name and the kind of its residue."""
    if is_amino_acid(residue):
        return atom.name in PROTEIN_BACKBONE
    # The sugar's atoms carry a prime (in old files a star); the phosphate's are P and OP1 to OP3, O1P to O3P.
    nucleic = gemmi.find_tabulated_residue(residue.name).is_nucleic_acid()
    return nucleic and (atom.name[-1] in "'*" or "P" in atom.name)


def _as_arrays(source: gemmi.Structure, remarks: tuple[str, ...]) -> Structure:
    """Collect the atoms, and tell of gaps in the numbering and of side chains that were not built."""
    positions, electrons, residue_of, backbone = [], [], [], []
    chain_of: list[int] = []
    gaps = bare = 0
    for chain_index, chain in enumerate(source[0]):
        previous: int | None = None
        for residue in chain:
            amino_acid = is_amino_acid(residue)
            if amino_acid:
                number = residue.seqid.num
                gaps += previous is not None and number is not None and number > previous + 1
                previous = number
            flags = [_is_backbone(residue, atom) for atom in residue]
            bare += amino_acid and residue.name != "GLY" and all(flags)
            for atom, flag in zip(residue, flags, strict=True):
                positions.append(atom.pos.tolist())
                electrons.append(max(atom.element.atomic_number, 1) * (atom.occ or 1.0))
                residue_of.append(len(chain_of))
                backbone.append(flag)
            chain_of.append(chain_index)
    if gaps:
        remarks += (f"The numbering of residues has {gaps} gaps; nothing is built into them.",)
    if bare:
        remarks += (f"{bare} residues have no side chain; their main chain alone is used.",)
    return Structure(
        source=source,
        positions=np.array(positions, dtype=np.float64).reshape(-1, 3),
        electrons=np.array(electrons, dtype=np.float64),
        residue=np.array(residue_of, dtype=np.int64),
        backbone=np.array(backbone, dtype=bool),
        chain=np.array(chain_of, dtype=np.int64),
        remarks=remarks,
    )


def _check_unit(structure: Structure, path: Path) -> None:
    """Refuse coordinates whose neighbouring Cα atoms are not some 3.8 Å apart."""
    steps = []
    for chain in structure.source[0]:
        alphas = [
            (residue.seqid.num or 0, residue["CA"][0].pos)
            for residue in chain
            if is_amino_acid(residue) and residue.find_atom("CA", "*")
        ]
        steps += [first.dist(second) for (a, first), (b, second) in pairwise(alphas) if b == a + 1]
    if not steps:
        return
    median = float(np.median(steps))
    if not PLAUSIBLE_CA_STEP[0] <= median <= PLAUSIBLE_CA_STEP[1]:
        advice = "they look like nanometres: multiply them by 10" if 0.19 <= median <= 0.76 else "give them in Å"
        raise InputError(
            f"{path}: neighbouring Cα atoms are {median:.2f} apart where 3.8 Å are expected, so the coordinates are "
            f"not in Å; {advice}."
        )

"""Files of an atomic job: ensembles, one structure per state, the table of residues, a script for ChimeraX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.atoms.structure import Structure, write_ensemble
from cryodrgn_ext.durable_files import atomic_write_text
from cryodrgn_ext.engines.atomic.agreement import Agreement
from cryodrgn_ext.engines.atomic.image_learning import FoldResult
from cryodrgn_ext.engines.atomic.motion import AtomicMotion, ResidueEvidence
from cryodrgn_ext.engines.atomic.placement import Placement
from cryodrgn_ext.engines.held_out import HeldOut
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.own_tables import own_star_text
from cryodrgn_ext.plain_files import load_arrays, write_arrays
from cryodrgn_ext.results.layout import Layout

ENSEMBLE_NAME, RESIDUES_NAME, SCRIPT_NAME = "ensemble.cif", "residues.star", "motion.cxc"
MOTION_NAME, PLACEMENT_NAME, STATE_NAME = "motion.npz", "placement.npz", "structure.cif"
FOLD_NAME = "learned.npz"
ARRAYS = ("nodes_z", "positions", "halves", "share", "probability", "features", "scale")
LATER_ARRAYS = ("correlation", "chance")  # which results of earlier versions lack
#: B-factor of a root-mean-square error u along all three axes together: 8 pi² u² / 3.
B_PER_SQUARE = 8 * np.pi**2 / 3


def write_placement(path: Path, placement: Placement) -> None:
    """Write where a structure lies."""
    figures = np.array([placement.correlation, placement.other_hand])
    write_arrays(path, {"rotation": placement.rotation, "shift_A": placement.shift_A, "figures": figures})


def read_placement(path: Path) -> Placement:
    """Read what :func:`write_placement` wrote."""
    found = load_arrays(path, "rotation", "shift_A", "figures")
    return Placement(found["rotation"], found["shift_A"], *found["figures"].tolist())


def write_motion(path: Path, motion: AtomicMotion) -> None:
    """Write what was learned."""
    write_arrays(path, {name: getattr(motion, name) for name in (*ARRAYS, *LATER_ARRAYS)})


def read_motion(path: Path) -> AtomicMotion:
    """Read what :func:`write_motion` wrote."""
    return AtomicMotion(**load_arrays(path, *ARRAYS, optional=LATER_ARRAYS))


def write_fold(path: Path, found: FoldResult) -> None:
    """Write what was learned image by image beside the motion: latents, what single images gain, losses."""
    numbers = [] if found.held_out is None else list(found.held_out.as_numbers().values())
    write_arrays(path, {"z": found.z, "held_out": np.array(numbers), "history": found.history})


def read_fold(path: Path) -> tuple[HeldOut | None, NDArray[np.float64]]:
    """What single images gain, where it was measured, and the losses, as :func:`write_fold` wrote them."""
    found = load_arrays(path, "held_out", "history")
    numbers = found["held_out"].tolist()
    return HeldOut(*numbers) if numbers else None, found["history"]


def write_structures(
    layout: Layout,
    structure: Structure,
    ensemble: NDArray[np.float64],
    states: Mapping[int, NDArray[np.float64]],
    error_A: NDArray[np.float64],
) -> str | None:
    """Write the ensemble as mmCIF and PDB, and the structure of each state.

    Parameters
    ----------
    layout : Layout
    structure : Structure
    ensemble : ndarray
        (P, A, 3) positions in Å from the corner of the maps, as programs show both.
    states : mapping
        Number of a state to its positions (A, 3).
    error_A : ndarray
        (R,) of each residue, written as B-factors.

    Returns
    -------
    str or None
        Why there is no PDB file, where that format cannot hold the structure.
    """
    b_factors = B_PER_SQUARE * error_A**2
    write_ensemble(layout.root / ENSEMBLE_NAME, structure, ensemble, b_factors)
    for number, positions in states.items():
        layout.state(number).mkdir(parents=True, exist_ok=True)
        write_ensemble(layout.state(number) / STATE_NAME, structure, positions[None], b_factors)
    try:
        write_ensemble((layout.root / ENSEMBLE_NAME).with_suffix(".pdb"), structure, ensemble, b_factors)
    except InputError as error:
        return str(error)
    return None


def write_residues(path: Path, structure: Structure, evidence: ResidueEvidence, agreement: Agreement | None) -> None:
    """Write chain, number and name of each residue, how far it moves, what of it is proven, its error and its map's."""
    names = [(chain.name, str(residue.seqid), residue.name) for chain in structure.source[0] for residue in chain]
    chain, number, name = zip(*names, strict=True)
    columns = {
        "cdxChain": list(chain), "cdxResidue": list(number), "cdxName": list(name),
        "cdxMotionA": evidence.motion_A, "cdxProvenMotionA": evidence.proven_A, "cdxErrorA": evidence.error_A,
        "cdxDetermined": evidence.determined.astype(int),
    }  # fmt: skip
    if agreement is not None:
        columns |= {"cdxHalfMapCorrelation": agreement.correlation, "cdxAgrees": agreement.agrees.astype(int)}
    atomic_write_text(path, own_star_text({"residues": columns}))


def write_script(layout: Layout, maps: Mapping[int, Path]) -> None:
    """Write commands for ChimeraX: the ensemble as one moving structure, coloured by error, and the maps of states."""
    lines = [
        "# The ensemble as a moving structure; residues that the data do not determine are red. Maps are those of the",
        "# states, made of the same particles without any atoms.",
        f"open {ENSEMBLE_NAME} coordsets true",
        "color bfactor #1 palette blue:white:red range 0,75",
        "coordset slider #1",
    ]
    lines += [f'open "{path}"\nvolume #{place} transparency 0.6 style surface'
              for place, path in enumerate(maps.values(), start=2)]  # fmt: skip
    atomic_write_text(layout.root / SCRIPT_NAME, "\n".join([*lines, "view", ""]))


def on_corner(positions: NDArray[np.float64], box: int, pixel_size_A: float) -> NDArray[np.float64]:
    """Positions (..., 3) in Å from the first voxel of a map instead of from the centre of the box."""
    return positions + box // 2 * pixel_size_A


def placed_structure(structure: Structure, placement: Placement) -> Structure:
    """The structure in the frame of the map."""
    return replace(structure, positions=placement.points(structure.positions))

"""Particles STAR files of RELION 3.0, 3.1, 4 and 5 as a ParticleSet."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.header_pixels import header_notes
from cryodrgn_ext.metadata.image_files import find_project_directory
from cryodrgn_ext.metadata.image_names import (
    ImageReferences,
    image_hashes,
    parse_image_names,
    stack_file,
    unique_ids,
)
from cryodrgn_ext.metadata.mrc import read_stack_header
from cryodrgn_ext.metadata.optics import (
    PREMULTIPLIED,
    OpticsGroup,
    finite_column,
    optics_from_particles,
    read_optics_table,
    unused_optics_notes,
    with_particle_optics,
)
from cryodrgn_ext.metadata.particle_ctf import ParticleCtf
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.plausible_poses import pose_notes
from cryodrgn_ext.metadata.plausible_units import unit_notes
from cryodrgn_ext.metadata.relion_source import UID_COLUMN, RelionSource
from cryodrgn_ext.metadata.star import StarFile, read_star
from cryodrgn_ext.metadata.star_table import StarTable

_SUBTOMOGRAM_COLUMNS = (
    "rlnTomoParticleName", "rlnTomoParticleId", "rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt",
    "rlnTomoSubtomogramPsi", "rlnTomoVisibleFrames", "rlnCenteredCoordinateXAngst",
)  # fmt: skip
_TILT_SERIES_COLUMNS = ("rlnTomoName", "rlnTomoTiltSeriesStarFile", "rlnTomoProjX", "rlnTomoNominalStageTiltAngle")
_STACKS_OF_TILTS = ("_stack2d.mrcs", "_stack2d.mrc")
# In the optimiser's file of a refinement.
_DATA_FILE = "rlnExperimentalDataStarFile"
_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


def read_relion_particles(
    path: str | Path, project_dir: str | Path | None = None, require_poses: bool = True
) -> ParticleSet:
    """Read a particles STAR file; see :func:`cryodrgn_ext.metadata.particles.read_particles`."""
    return particles_from_star(read_star(path), project_dir, require_poses)


def particles_from_star(
    star: StarFile, project_dir: str | Path | None = None, require_poses: bool = True
) -> ParticleSet:
    """Understand a STAR file that was read, or made; see :func:`cryodrgn_ext.metadata.particles.read_particles`."""
    _refuse_tomography(star)
    table = _particles_table(star)
    references = parse_image_names(table)
    files = [stack_file(name) for name in references.stack_names]
    project = find_project_directory(star.path, files, project_dir)
    stack_paths = tuple(project.path / name for name in files)
    notes = project.notes
    if "optics" in star.blocks:
        optics = read_optics_table(star.blocks["optics"])
        optics_index = _optics_rows(table, np.array([group.number for group in optics])).astype(np.int32)
        optics, optics_index, found = with_particle_optics(table, optics, optics_index)
        notes += found
    else:
        optics, optics_index = optics_from_particles(table)
        if any(group.ctf_premultiplied for group in optics):
            notes += (
                f"{star.path}: images are taken to be premultiplied by their CTF, as _{PREMULTIPLIED} of the particles "
                "says (RELION reads it from an optics table only)",
            )
    notes += unused_optics_notes(table)
    image_hash = image_hashes(references)
    half_set = _half_sets(table)
    has_poses = _has_poses(table, require_poses)
    euler_deg = np.full((table.n_rows, 3), np.nan)
    if has_poses:
        euler_deg = np.stack([_finite(table, label) for label in _ANGLES], axis=1)
    uid, own_uids = _uids(table, image_hash)
    ctf = _ctf(star, table)
    optics = _with_box_sizes(optics, optics_index, stack_paths, references)
    pixel_size_A = np.array([group.pixel_size_A for group in optics])[optics_index]
    shift_A = _shifts(table, "optics" in star.blocks, pixel_size_A)
    box_A = np.array([group.box_size or 0 for group in optics])[optics_index] * pixel_size_A
    notes += (*unit_notes(star.path, ctf, optics), *pose_notes(star.path, euler_deg, shift_A, box_A, image_hash))
    notes += header_notes(star.path, optics, optics_index, stack_paths, references.stack_id)
    return ParticleSet(
        source=RelionSource(star, table.name, own_uids, notes),
        project_dir=project.path,
        stack_names=references.stack_names,
        stack_paths=stack_paths,
        stack_id=references.stack_id,
        stack_index=references.stack_index,
        euler_deg=euler_deg,
        shift_A=shift_A,
        ctf=ctf,
        optics=optics,
        optics_index=optics_index,
        half_set=half_set,
        row_id=np.arange(table.n_rows),
        image_hash=image_hash,
        uid=uid,
        has_poses=has_poses,
    )


def _refuse_tomography(star: StarFile) -> None:
    """Name files of tomography before anything else is found wrong with them: RELION 3 to 5, M, Warp, Dynamo."""
    what = _tomography(star)
    if what is not None:
        raise InputError(
            f"{star.path}: {what}, which is not supported; give a file of single-particle images (index@stack)"
        )


def _tomography(star: StarFile) -> str | None:
    """Say what of tomography a file is; None when it is none."""
    for table in star.blocks.values():
        if "rlnTomoTomogramsFile" in table or "rlnTomoParticlesFile" in table:
            return "is an optimisation set of tomograms (RELION 4 and 5)"
        if "rlnTomoSubTomosAre2DStacks" in table or any(label in table for label in _SUBTOMOGRAM_COLUMNS):
            return "holds tomography particles (subtomograms of RELION 4 and 5)"
        if "rlnImageName" not in table and any(label in table for label in _TILT_SERIES_COLUMNS):
            return "describes tilt series or tomograms"
        if "rlnImageDimensionality" in table and "3" in table.text("rlnImageDimensionality").tolist():
            return "holds subtomograms: three-dimensional images (rlnImageDimensionality 3)"
        if any(label.startswith("wrp") for label in table.columns) and "rlnImageName" not in table:
            return "is a file of Warp or M itself (a data source or a particle species)"
        if "rlnImageName" not in table or table.n_rows == 0 or "@" in table.value("rlnImageName"):
            continue
        if table.value("rlnImageName").endswith(_STACKS_OF_TILTS):
            return "holds tomography particles, each a stack of tilt images of its own"
        if any(label in table for label in ("rlnCoordinateZ", "rlnOriginZ", "rlnOriginZAngst", "rlnCtfImage")):
            return "holds subtomograms: images without a number (index@stack) that have a third dimension"
    return None


def _particles_table(star: StarFile) -> StarTable:
    """Return the block that holds the particles: ``data_particles``, or in RELION 3.0 any that has images."""
    blocks = star.blocks
    found = ", ".join(f"data_{name}" for name in blocks)
    if "particles" in blocks:
        table = blocks["particles"]
    elif "optics" in blocks:
        others = [f"data_{name}" for name, one in blocks.items() if "rlnImageName" in one]
        what = f"rename {others[0]} to data_particles" if len(others) == 1 else "give a particles STAR file"
        raise InputError(f"{star.path}: has no data_particles table, only {found}; {what}")
    else:
        candidates = [one for one in blocks.values() if "rlnImageName" in one]
        if len(candidates) != 1:
            what = "no table" if not candidates else f"{len(candidates)} tables"
            named = [one.value(_DATA_FILE) for one in blocks.values() if _DATA_FILE in one and one.n_rows]
            give = f"give the particles that it names, {named[0]}" if named else "give a particles STAR file"
            raise InputError(f"{star.path}: has {what} with a column _rlnImageName (found {found}); {give}")
        table = candidates[0]
    if "rlnImageName" not in table:
        raise InputError(f"{star.path}: data_{table.name} has no column _rlnImageName; give a particles STAR file")
    if not table.is_loop:
        raise InputError(f"{star.path}: data_{table.name} is a list, but a loop_ table of particles is expected")
    if table.n_rows == 0:
        raise InputError(f"{star.path}: data_{table.name} is empty, but at least one particle is expected")
    return table


def _finite(table: StarTable, column: str) -> npt.NDArray[np.float64]:
    values = table.floats(column)
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        row = int(wrong[0])
        raise InputError(
            f"{table.describe_row(row)}, image {table.value('rlnImageName', row)}: _{column} is "
            f"{values[row]} ({len(wrong)} such rows), but a finite number is expected"
        )
    return values


def _has_poses(table: StarTable, require_poses: bool) -> bool:
    missing = [f"_{label}" for label in _ANGLES if label not in table]
    if missing and require_poses:  # template picking and 2D classification may leave some of the three
        raise InputError(
            f"{table.path}: data_{table.name} has no column {', '.join(missing)}; particles with orientations are "
            "expected, such as the run_data.star of a 3D refinement"
        )
    return not missing


def _shifts(table: StarTable, has_optics: bool, pixel_size_A: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return (N, 2) shifts: minus the origin, which is 0 where the file has none (as in RELION)."""
    in_A = ("rlnOriginXAngst", "rlnOriginYAngst"), np.ones(1)
    in_px = ("rlnOriginX", "rlnOriginY"), pixel_size_A
    # Of two pairs RELION takes the one of its version: pixels without an optics table.
    for labels, unit_A in (in_A, in_px) if has_optics else (in_px, in_A):
        present = [label for label in labels if label in table]
        if len(present) == 1:
            raise InputError(f"{table.path}: data_{table.name} has the column _{present[0]} but not its partner")
        if present and has_optics and labels[0] == "rlnOriginX":
            raise InputError(
                f"{table.path}: data_{table.name} has origins in pixels (_rlnOriginX) although it has an optics table; "
                "RELION 3.1 and later ignore these and expect _rlnOriginXAngst: convert the file"
            )
        if present:
            return np.stack([0.0 - _finite(table, label) * unit_A for label in labels], axis=1)
    return np.zeros((table.n_rows, 2))


def _ctf(star: StarFile, table: StarTable) -> ParticleCtf:
    """Return what the CTF of every particle has of its own, or of its row in the optics table, as RELION reads it."""
    shared = star.blocks.get("optics")
    columns: dict[str, npt.NDArray[np.float64]] = {}
    for label in (
        "rlnDefocusU",
        "rlnDefocusV",
        "rlnDefocusAngle",
        "rlnPhaseShift",
        "rlnCtfBfactor",
        "rlnCtfScalefactor",
    ):
        if label in table:
            columns[label] = _finite(table, label)
        elif shared is not None and label in shared:
            columns[label] = finite_column(shared, label)[_optics_rows(table, shared.integers("rlnOpticsGroup"))]
    for label in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"):
        if label not in columns:
            raise InputError(f"{table.path}: data_{table.name} has no column _{label}, which the CTF needs")

    def column(label: str, default: float = 0.0) -> npt.NDArray[np.float64]:
        return columns.get(label, np.full(table.n_rows, default))

    return ParticleCtf(
        defocus_u_A=column("rlnDefocusU"),
        defocus_v_A=column("rlnDefocusV"),
        defocus_angle_rad=np.radians(column("rlnDefocusAngle")),
        phase_shift_rad=np.radians(column("rlnPhaseShift")),
        b_factor_A2=column("rlnCtfBfactor"),
        scale=column("rlnCtfScalefactor", 1.0),
    )


def _optics_rows(table: StarTable, defined: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return (N,) which of the optics groups of the numbers ``defined`` every particle is in."""
    if "rlnOpticsGroup" not in table:
        raise InputError(
            f"{table.path}: data_{table.name} has no column _rlnOpticsGroup, which says to which row of data_optics a "
            "particle belongs; add it, for example with relion_star_handler --add_column rlnOpticsGroup "
            "--add_column_value 1"
        )
    number = table.integers("rlnOpticsGroup")
    order = np.argsort(defined)
    index = order[np.minimum(np.searchsorted(defined, number, sorter=order), len(order) - 1)]
    undefined = np.flatnonzero(defined[index] != number)
    if len(undefined):
        row = int(undefined[0])
        raise InputError(
            f"{table.describe_row(row)}, image {table.value('rlnImageName', row)}: the optics group {number[row]} is "
            f"not defined in data_optics, which has {', '.join(map(str, defined.tolist()))}"
        )
    return index.astype(np.int64)


def _uids(table: StarTable, image_hash: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint64], bool]:
    """Return CryoSPARC's identifiers where a conversion noted them and they are unique, else our own (and True)."""
    if UID_COLUMN in table:
        text = table.raw(UID_COLUMN)
        if all(value.isdigit() and int(value) < 1 << 64 for value in text.tolist()):
            uid = np.array([int(value) for value in text.tolist()], np.uint64)
            if len(np.unique(uid)) == len(uid):  # symmetry expansion in RELION repeats them
                return uid, False
    return unique_ids(image_hash), True


def _half_sets(table: StarTable) -> npt.NDArray[np.int8]:
    if "rlnRandomSubset" not in table:
        return np.zeros(table.n_rows, np.int8)
    try:
        half_set = table.integers("rlnRandomSubset")
    except InputError as error:
        raise InputError(f"{error} (half-sets are 1 and 2; take the column out to have them drawn)") from None
    wrong = np.flatnonzero((half_set < 0) | (half_set > 2))
    if len(wrong):
        row = int(wrong[0])
        raise InputError(
            f"{table.describe_row(row)}: _rlnRandomSubset is {half_set[row]}, but 1 or 2 is expected; take the column "
            "out to have half-sets drawn"
        )
    zero = np.flatnonzero(half_set == 0)
    if 0 < len(zero) < len(half_set):
        row = int(zero[0])
        what = "give all particles a half-set or none"
        if half_set.max() == 1:
            what = "half-sets 0 and 1 are CryoSPARC's, so add 1 to all"
        raise InputError(
            f"{table.describe_row(row)}: _rlnRandomSubset is 0 in {len(zero)} rows and not in the others, which RELION "
            f"refuses; {what}"
        )
    return half_set.astype(np.int8)


def _with_box_sizes(
    optics: tuple[OpticsGroup, ...],
    optics_index: npt.NDArray[np.int32],
    stack_paths: tuple[Path, ...],
    references: ImageReferences,
) -> tuple[OpticsGroup, ...]:
    """Take box sizes that the metadata do not tell from the header of a group's first stack, where it exists."""
    groups = list(optics)
    used, first = np.unique(optics_index, return_index=True)
    for index, row in zip(used.tolist(), first.tolist(), strict=True):
        path = stack_paths[references.stack_id[row]]
        if groups[index].box_size is None and os.path.isfile(path):
            groups[index] = replace(groups[index], box_size=read_stack_header(path).nx)
    return tuple(groups)

"""Particles of a .cs as a STAR file of RELION 3.1, and what such a file cannot carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.column_table import Treatment, cryosparc_field
from cryodrgn_ext.metadata.cryosparc_alignments import ALIGNMENTS, ALIGNMENTS_2D, class_index
from cryodrgn_ext.metadata.cryosparc_particles import UNCONVERTED_ABERRATIONS
from cryodrgn_ext.metadata.cs import CsTable
from cryodrgn_ext.metadata.embedded_fields import columns_of_fields
from cryodrgn_ext.metadata.filaments import filament_columns
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.relion31 import optics_table
from cryodrgn_ext.metadata.relion_source import UID_COLUMN
from cryodrgn_ext.metadata.star import StarFile, new_star, new_table
from cryodrgn_ext.metadata.star_table import Values

# They go along although RELION's columns say the same, so that the way back finds the size of the micrograph and every
# digit of the position, the pixel of the shift, which of the many vectors of one rotation CryoSPARC had (its poses may
# be longer than pi), the number of the exposure group (RELION numbers groups anew), and filaments as they were.
_COMPANIONS = (
    "location/micrograph_shape", "location/center_x_frac", "location/center_y_frac", "location/exp_group_id",
    "alignments3D/pose", "alignments3D/psize_A", "ctf/exp_group_id", "alignments2D/shift", "alignments2D/psize_A",
    "alignments2D/class",
    "filament/filament_uid", "filament/position_A", "filament/filament_pose",
)  # fmt: skip

# Columns of the optics table, which is always written.
_IN_OPTICS = frozenset({
    "rlnImagePixelSize", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnBeamTiltX",
    "rlnMagMat00 to rlnMagMat11",
})  # fmt: skip


@dataclass(frozen=True)
class StarConversion:
    """A converted file.

    Attributes
    ----------
    star : StarFile
    foreign : tuple of str
        Fields of the .cs for which RELION has no column.
    unconverted : tuple of str
        Fields for which RELION has a column, but that are not converted.
    lost : tuple of str
        Those of both whose values the STAR file does not hold in columns of ours either.
    notes : tuple of str
        What had to be assumed, one sentence each.
    """

    star: StarFile
    foreign: tuple[str, ...]
    unconverted: tuple[str, ...]
    lost: tuple[str, ...]
    notes: tuple[str, ...] = ()


def star_from_cs(
    particles: ParticleSet,
    extra_columns: Mapping[str, Values] | None = None,
    *,
    embed: bool = True,
    flip_y: bool = True,
) -> StarConversion:
    """Convert particles of a .cs, with the poses that the set has now.

    Stacks called ``.mrc`` get the ending ``:mrcs``, without which RELION takes them for three-dimensional maps. The
    uid goes along in a column of ours, which RELION from 3.1 on keeps, so that the way back finds every particle.

    Parameters
    ----------
    particles : ParticleSet
        From a .cs.
    extra_columns : mapping of str to (N,) values, optional
        To append or replace.
    embed : bool
        Put what is not converted into columns of ours (:mod:`cryodrgn_ext.metadata.embedded_fields`).
    flip_y : bool
        Count y from the other edge of the micrograph, as the two programs do unless something turned it already.

    Returns
    -------
    StarConversion

    Raises
    ------
    InputError
        When the image size of a group is known from neither the metadata nor its stack.
    """
    table = particles.cs
    filaments = filament_columns(particles.source, particles.row_id)
    columns = columns_of_particles(particles, flip_y=flip_y) | filaments.columns
    numbers = np.array([group.number for group in particles.optics])
    columns["rlnOpticsGroup"] = numbers[particles.optics_index]
    columns[UID_COLUMN] = particles.uid
    left = _unconverted_fields(table, particles, set(columns))
    lost = left
    if embed:
        companions = [field for field in _COMPANIONS if field in table and table.columns[field].ndim <= 2]
        embedded, lost = columns_of_fields(table, dict.fromkeys([*left, *companions]), particles.row_id)
        lost = tuple(field for field in lost if field in left)
        columns |= embedded
    columns |= dict(extra_columns or {})
    for label, values in columns.items():
        if len(values) != particles.n:
            raise InputError(f"the column {label} has {len(values)} values for {particles.n} particles")
    star = new_star([optics_table(particles), new_table("particles", columns)])
    return StarConversion(
        star,
        foreign=tuple(field for field in left if not cryosparc_field(field).counterpart),
        unconverted=tuple(field for field in left if cryosparc_field(field).counterpart),
        lost=lost,
        notes=(*_position_notes(table), *filaments.notes),
    )


def columns_of_particles(particles: ParticleSet, *, flip_y: bool = True) -> dict[str, Values]:
    """Return RELION's columns (N,) of particles of a .cs, but for their optics groups and filaments."""
    table = particles.cs
    columns: dict[str, Values] = {"rlnImageName": _image_names(particles)}
    columns |= _micrographs(particles, table, flip_y)
    ctf = particles.ctf
    columns |= {
        "rlnDefocusU": ctf.defocus_u_A,
        "rlnDefocusV": ctf.defocus_v_A,
        "rlnDefocusAngle": np.degrees(ctf.defocus_angle_rad),
        "rlnPhaseShift": np.degrees(ctf.phase_shift_rad),
        "rlnCtfBfactor": ctf.b_factor_A2,
        "rlnCtfScalefactor": ctf.scale,
    }
    if particles.has_poses:
        origin_A = 0.0 - particles.shift_A
        columns |= dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), particles.euler_deg.T, strict=True))
        columns |= {"rlnOriginXAngst": origin_A[:, 0], "rlnOriginYAngst": origin_A[:, 1]}
    else:
        _, shift_A = particles.source.origins(particles.shift_A, particles.row_id, False)
        if np.any(shift_A != 0):  # of a 2D classification
            columns |= {f"rlnOrigin{axis}Angst": 0.0 - shift_A[:, i] for i, axis in enumerate("XY")}
    classes = class_index(table)
    if classes is not None:
        columns["rlnClassNumber"] = classes[particles.row_id] + 1
    if particles.half_set.any():
        columns["rlnRandomSubset"] = particles.half_set
    return columns


def _image_names(particles: ParticleSet) -> list[str]:
    names = [name if name.endswith((".mrcs", ":mrcs")) else f"{name}:mrcs" for name in
             (name.removeprefix(">") for name in particles.stack_names)]  # fmt: skip
    pairs = zip((particles.stack_index + 1).tolist(), particles.stack_id.tolist(), strict=True)
    return [f"{index:06d}@{names[stack]}" for index, stack in pairs]


def _micrographs(particles: ParticleSet, table: CsTable, flip_y: bool) -> dict[str, Values]:
    columns: dict[str, Values] = {}
    rows = particles.row_id
    if "location/micrograph_path" in table:
        texts, code = table.coded_text("location/micrograph_path")
        columns["rlnMicrographName"] = np.array([text.removeprefix(">") for text in texts])[code[rows]]
    if has_coordinates(table):
        shape = table.integers("location/micrograph_shape")[rows]
        y = table.floats("location/center_y_frac")[rows]
        columns["rlnCoordinateX"] = table.floats("location/center_x_frac")[rows] * shape[:, 1]
        columns["rlnCoordinateY"] = (1.0 - y if flip_y else y) * shape[:, 0]
    return columns


def has_coordinates(table: CsTable) -> bool:
    """Whether a .cs tells where on the micrographs the particles are: fractions, and sizes to multiply with."""
    if any(f"location/{name}" not in table for name in ("micrograph_shape", "center_x_frac", "center_y_frac")):
        return False
    return bool(np.all(table.integers("location/micrograph_shape") > 0))


def _position_notes(table: CsTable) -> list[str]:
    if "location/center_x_frac" not in table:
        return []
    if has_coordinates(table):
        return _outside_notes(table)
    unknown = table.n_rows
    if "location/micrograph_shape" in table:
        unknown = int(np.count_nonzero((table.integers("location/micrograph_shape") == 0).any(axis=1)))
    return [
        f"the size of the micrograph (location/micrograph_shape) is 0 or not there in {unknown} of {table.n_rows} "
        "rows, so there are no rlnCoordinateX, rlnCoordinateY; the fractions go along for the way back"
    ]


def _outside_notes(table: CsTable) -> list[str]:
    """Say when positions lie outside of their micrographs, as those of other micrographs or in pixels do."""
    at = np.stack([table.floats(f"location/center_{axis}_frac") for axis in "xy"], axis=1)
    outside = ((at < 0) | (at > 1)).any(axis=1)
    if not outside.any():
        return []
    row = int(np.argmax(outside))
    return [
        f"{np.count_nonzero(outside)} of {len(at)} positions lie outside of their micrographs, the first in row "
        f"{row + 1} (location/center_x_frac {at[row, 0]:g}, center_y_frac {at[row, 1]:g}; 0 to 1 is expected): they "
        "may count pixels, or be of other micrographs"
    ]


def _unconverted_fields(table: CsTable, particles: ParticleSet, columns: set[str]) -> tuple[str, ...]:
    """Return the fields whose content is not all in RELION's ``columns``."""
    left = []
    for field in table.columns:
        entry = cryosparc_field(field)
        if particles.poses_changed and entry.pose is Treatment.RENEWED:
            continue  # they describe an alignment that is not theirs any more
        if field in UNCONVERTED_ABERRATIONS and not np.any(table.columns[field]):
            continue  # what is 0 stays unsaid: RELION's default is the same
        slot = field.split("/")[0]
        whole = not slot.startswith(("alignments3D_multi", "alignments_class_"))  # of these one class is taken
        if slot == ALIGNMENTS_2D and particles.has_poses:
            whole = whole and field == f"{ALIGNMENTS_2D}/class" and f"{ALIGNMENTS}/class" not in table
        targets = {label.strip() for label in entry.column.replace("rlnImageSize", "rlnImageName").split(",")}
        if not whole or not entry.column or not targets & (columns | _IN_OPTICS):
            left.append(field)
    return tuple(left)

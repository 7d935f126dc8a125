"""Particles of a .cs as a STAR file of RELION 3.1, and what such a file cannot carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.carried_fields import columns_of_fields
from cryodrgn_ext.metadata.cryosparc_alignments import class_index
from cryodrgn_ext.metadata.cryosparc_particles import UNCONVERTED_ABERRATIONS
from cryodrgn_ext.metadata.cs import CsTable
from cryodrgn_ext.metadata.optics import OpticsGroup
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.relion_source import UID_COLUMN
from cryodrgn_ext.metadata.star import StarFile, new_star, new_table
from cryodrgn_ext.metadata.star_table import StarTable, Values

_IDENTITY = ((1.0, 0.0), (0.0, 1.0))
# Fields whose content stands in the STAR file; the aberrations without counterpart are carried when they are 0.
_CARRIED = frozenset({
    "uid", "blob/path", "blob/idx", "blob/shape", "blob/psize_A",
    "ctf/exp_group_id", "ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast", "ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad",
    "ctf/phase_shift_rad", "ctf/scale", "ctf/bfactor", "ctf/tilt_A", "ctf/anisomag",
    "location/micrograph_path", "location/center_x_frac", "location/center_y_frac", "location/micrograph_shape",
    "location/exp_group_id",
    "alignments3D/split", "alignments3D/shift", "alignments3D/pose", "alignments3D/psize_A", "alignments3D/class",
})  # fmt: skip
# They go along although RELION's columns say the same, so that the way back finds the size of the micrograph, the pixel
# of the shift, which of the many vectors of one rotation CryoSPARC had (its poses may be longer than pi), and the
# number of the exposure group (RELION numbers groups anew).
_COMPANIONS = ("location/micrograph_shape", "alignments3D/pose", "alignments3D/psize_A", "ctf/exp_group_id")


@dataclass(frozen=True)
class StarConversion:
    """A converted file.

    Attributes
    ----------
    star : StarFile
    foreign : tuple of str
        Fields of the .cs for which RELION has no column.
    not_carried : tuple of str
        Those of them whose values the STAR file does not hold in columns of ours either.
    """

    star: StarFile
    foreign: tuple[str, ...]
    not_carried: tuple[str, ...]


def star_from_cs(
    particles: ParticleSet, extra_columns: Mapping[str, Values] | None = None, *, carry: bool = True
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
    carry : bool
        Put fields that RELION has no column for into columns of ours (:mod:`cryodrgn_ext.metadata.carried_fields`).

    Returns
    -------
    StarConversion

    Raises
    ------
    InputError
        When the image size of a group is known from neither the metadata nor its stack.
    """
    table = particles.cs
    columns = columns_of_particles(particles)
    numbers = np.array([group.number for group in particles.optics])
    columns["rlnOpticsGroup"] = numbers[particles.optics_index]
    columns[UID_COLUMN] = particles.uid
    foreign = _foreign_fields(table, particles)
    lost = foreign
    if carry:
        companions = [field for field in _COMPANIONS if field in table and table.columns[field].ndim <= 2]
        carried, lost = columns_of_fields(table, [*foreign, *companions], particles.row_id)
        lost = tuple(field for field in lost if field not in companions)
        columns |= carried
    columns |= dict(extra_columns or {})
    for label, values in columns.items():
        if len(values) != particles.n:
            raise InputError(f"the column {label} has {len(values)} values for {particles.n} particles")
    star = new_star([_optics_table(particles), new_table("particles", columns)])
    return StarConversion(star, foreign, lost)


def columns_of_particles(particles: ParticleSet) -> dict[str, Values]:
    """Return RELION's columns (N,) of particles of a .cs, but for their optics groups."""
    table = particles.cs
    columns: dict[str, Values] = {"rlnImageName": _image_names(particles)}
    columns |= _micrographs(particles, table)
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


def _micrographs(particles: ParticleSet, table: CsTable) -> dict[str, Values]:
    columns: dict[str, Values] = {}
    rows = particles.row_id
    if "location/micrograph_path" in table:
        texts, code = table.coded_text("location/micrograph_path")
        columns["rlnMicrographName"] = np.array([text.removeprefix(">") for text in texts])[code[rows]]
    if has_coordinates(table):
        shape = table.integers("location/micrograph_shape")[rows]
        columns["rlnCoordinateX"] = table.floats("location/center_x_frac")[rows] * shape[:, 1]
        columns["rlnCoordinateY"] = (1.0 - table.floats("location/center_y_frac")[rows]) * shape[:, 0]
    return columns


def has_coordinates(table: CsTable) -> bool:
    """Whether a .cs tells where on the micrographs the particles are."""
    return all(f"location/{name}" in table for name in ("micrograph_shape", "center_x_frac", "center_y_frac"))


def _optics_table(particles: ParticleSet) -> StarTable:
    used = sorted(set(particles.optics_index.tolist()))
    groups = [particles.optics[index] for index in used]
    sizes = [group.box_size for group in groups]
    if None in sizes:
        raise InputError(
            f"{particles.path}: the image size of {groups[sizes.index(None)].name} is unknown (no blob/shape, and its "
            f"stack is not found from {particles.project_dir}): give the project directory"
        )

    def column(name: str) -> list[Any]:
        return [getattr(group, name) for group in groups]

    columns: dict[str, Values] = {
        "rlnOpticsGroupName": column("name"),
        "rlnOpticsGroup": column("number"),
        "rlnVoltage": np.array(column("voltage_kV"), float),
        "rlnSphericalAberration": np.array(column("cs_mm"), float),
        "rlnAmplitudeContrast": np.array(column("amplitude_contrast"), float),
        "rlnImagePixelSize": np.array(column("pixel_size_A"), float),
        "rlnImageSize": sizes,
        "rlnImageDimensionality": [2] * len(groups),
    }
    columns |= _aberrations(groups)
    return new_table("optics", columns)


def _aberrations(groups: list[OpticsGroup]) -> dict[str, Values]:
    columns: dict[str, Values] = {}
    if any(group.beam_tilt_mrad != (0.0, 0.0) for group in groups):
        columns |= {f"rlnBeamTilt{axis}": np.array([one.beam_tilt_mrad[i] for one in groups])
                    for i, axis in enumerate("XY")}  # fmt: skip
    if any(group.mag_matrix != _IDENTITY for group in groups):
        columns |= {f"rlnMagMat{i}{j}": np.array([one.mag_matrix[i][j] for one in groups])
                    for i in (0, 1) for j in (0, 1)}  # fmt: skip
    return columns


def _foreign_fields(table: CsTable, particles: ParticleSet) -> tuple[str, ...]:
    carried = set(_CARRIED)
    if not has_coordinates(table):
        carried -= {"location/micrograph_shape", "location/center_x_frac", "location/center_y_frac"}
    if not particles.has_poses:
        carried -= {"alignments3D/split", "alignments3D/shift", "alignments3D/psize_A", "alignments3D/class"}
    if class_index(table) is not None and "alignments2D/class" in table and "alignments3D/class" not in table:
        carried.add("alignments2D/class")
    # What is 0 stays unsaid: RELION's default is the same.
    carried |= {one for one in UNCONVERTED_ABERRATIONS if one in table and not np.any(table.columns[one])}
    return tuple(field for field in table.columns if field not in carried)

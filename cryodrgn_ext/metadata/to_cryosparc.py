"""Particles of a STAR file as a .cs dataset, and what such a file cannot carry."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.column_table import Treatment, cryosparc_field
from cryodrgn_ext.metadata.cryosparc_alignments import ALIGNMENTS, ALIGNMENTS_2D, shift_pixel_A
from cryodrgn_ext.metadata.cryosparc_optics import beam_tilt_to_cs
from cryodrgn_ext.metadata.cs import AnyArray, CsTable, as_column
from cryodrgn_ext.metadata.ctf_applied import refuse_premultiplied
from cryodrgn_ext.metadata.embedded_fields import fields_of_columns
from cryodrgn_ext.metadata.filaments import FILAMENT, changed_on_the_way_back, filament_fields
from cryodrgn_ext.metadata.image_files import is_missing
from cryodrgn_ext.metadata.image_names import stack_file
from cryodrgn_ext.metadata.lost_columns import lost_columns
from cryodrgn_ext.metadata.mrc import read_mrc_header
from cryodrgn_ext.metadata.optics import finite_column
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.poses import pose_from_rotation, rotation_from_pose

# Statistics of an alignment that CryoSPARC did not make: the neutral values.
_STATISTICS = {
    "error": 0, "error_min": 0, "resid_pow": 0, "slice_pow": 0, "image_pow": 0, "cross_cor": 0, "alpha": 1,
    "alpha_min": 0, "weight": 0, "pose_ess": 0, "shift_ess": 0, "class_posterior": 1, "class_ess": 1,
}  # fmt: skip
# What a STAR file does not tell: fields that a conversion from a .cs put into columns of ours go before these.
_NEUTRAL = frozenset({
    "blob/sign", "blob/import_sig", "ctf/type", "ctf/scale_const", "ctf/shift_A", "ctf/trefoil_A", "ctf/tetra_A",
    "location/micrograph_uid", *(f"{ALIGNMENTS}/{name}" for name in _STATISTICS),
})  # fmt: skip
# Rotations that agree so well are the same: six decimals of a degree in the STAR file, float32 in the .cs.
_SAME_ROTATION = 1e-6
_SAME_SHIFT_A = 1e-4
# Fractions of a micrograph that agree so well are the same: six decimals of a pixel.
_SAME_FRACTION = 1e-6
_LOCATION = ("rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY")


@dataclass(frozen=True)
class CsConversion:
    """A converted file.

    Attributes
    ----------
    table : CsTable
    lost : tuple of str
        Columns of the STAR file whose values the .cs does not hold.
    notes : tuple of str
        What had to be assumed; one sentence each.
    """

    table: CsTable
    lost: tuple[str, ...]
    notes: tuple[str, ...]


def cs_from_star(particles: ParticleSet, *, dark: bool = False, flip_y: bool = True) -> CsConversion:
    """Convert particles of a STAR file, with the poses that the set has now.

    Parameters
    ----------
    particles : ParticleSet
        From a STAR file.
    dark : bool
        Whether the particles are dark on light (blob/sign -1); RELION's are light on dark.
    flip_y : bool
        Count y from the other edge of the micrograph, as the two programs do unless something turned it already.

    Returns
    -------
    CsConversion

    Raises
    ------
    InputError
        When the image size is unknown, or images are premultiplied by their CTF, which a .cs cannot say.
    """
    if particles.source.format == "cs":
        raise InputError(f"{particles.path}: is a .cs file already")
    refuse_premultiplied(particles, "CryoSPARC")
    n, notes = particles.n, []
    dark = dark or particles.source.dark_on_light(particles.row_id) == n
    columns: dict[str, AnyArray] = {"uid": particles.uid}
    columns |= _blob(particles, dark)
    embedded = fields_of_columns(particles.table, particles.row_id)
    if _realigned_in_2d(particles, embedded):
        embedded = {field: values for field, values in embedded.items() if not field.startswith(f"{ALIGNMENTS_2D}/")}
        notes.append("classes or origins have changed: the 2D alignments that came along (alignments2D) are left out")
    exposure = _exposure_ids(particles, embedded.get("ctf/exp_group_id"))
    columns |= _ctf(particles, exposure)
    location = _location(particles, exposure, embedded, flip_y)
    columns |= location
    notes += _outside_notes(location)
    if particles.has_poses:
        columns |= _pose_fields(particles, embedded.get(f"{ALIGNMENTS}/psize_A"), embedded.get(f"{ALIGNMENTS}/pose"))
        columns |= {f"{ALIGNMENTS}/{name}": np.full(n, value, np.float32) for name, value in _STATISTICS.items()}
        columns[f"{ALIGNMENTS}/class"] = _classes(particles).astype(np.uint32)
        if particles.half_set.all():
            columns[f"{ALIGNMENTS}/split"] = (particles.half_set - 1).astype(np.uint32)
        else:
            notes.append("the particles have no half-sets: alignments3D/split is left out")
    elif particles.half_set.any():
        notes.append("half-sets are not converted, because without orientations there is no alignments3D/split")
    present = [label for label in _LOCATION if label in particles.table]
    if present and not location and "location/center_x_frac" not in embedded:
        notes.append(
            "positions on micrographs are not converted: CryoSPARC wants them as fractions of the micrograph, and "
            "its size is not known (the micrographs are not found from the project directory, are no MRC files, or "
            "have no name)"
        )
    if "location/micrograph_uid" in location and "location/micrograph_uid" not in embedded:
        notes.append(
            "location/micrograph_uid is invented (made from the micrograph's name): CryoSPARC does not know the "
            "particles' micrographs by it"
        )
    columns |= _embedded_fields(particles, embedded, columns)
    tubes: frozenset[str] = frozenset()
    if f"{FILAMENT}/filament_uid" not in embedded and (made := filament_fields(particles)):
        columns |= made
        tubes = changed_on_the_way_back(particles, columns)
    if "blob/sign" not in embedded:
        notes.append(
            "blob/sign is -1: the particles are taken to be dark on light"
            if dark
            else "blob/sign is 1: the particles are taken to be light on dark, as RELION has them"
        )
    return CsConversion(CsTable(particles.path, columns), lost_columns(particles, columns, tubes), tuple(notes))


def _realigned_in_2d(particles: ParticleSet, embedded: dict[str, AnyArray]) -> bool:
    """Whether particles without 3D poses have other classes or origins than their 2D alignments that came along."""
    if particles.has_poses:
        return False
    classes, shift = embedded.get(f"{ALIGNMENTS_2D}/class"), embedded.get(f"{ALIGNMENTS_2D}/shift")
    if classes is not None and not np.array_equal(classes, _classes(particles)):
        return True
    pixel_A = embedded.get(f"{ALIGNMENTS_2D}/psize_A", particles.pixel_size_A)
    return shift is not None and bool(np.abs(shift * pixel_A[:, None] + particles.shift_A).max() > _SAME_SHIFT_A)


def _embedded_fields(
    particles: ParticleSet, embedded: dict[str, AnyArray], columns: dict[str, AnyArray]
) -> dict[str, AnyArray]:
    """Return the embedded fields that go before what was converted: those that a STAR file does not tell.

    What describes an alignment goes with its pose only: rows that were aligned anew keep the neutral values.
    """
    taken = {field: values for field, values in embedded.items() if field not in columns or field in _NEUTRAL}
    old_pose = embedded.get(f"{ALIGNMENTS}/pose")
    if not particles.has_poses or old_pose is None:
        return taken
    same = _same_rotation(old_pose, particles)
    for name in _STATISTICS:
        field = f"{ALIGNMENTS}/{name}"
        if field in taken and _belongs_to_pose(name) and not same.all():
            taken[field] = np.where(same, taken[field], columns[field]).astype(taken[field].dtype)
    return taken


def fields_of_particles(particles: ParticleSet) -> dict[str, AnyArray]:
    """Return fields (N, ...) of particles of a STAR file that need no size of images or micrographs."""
    ctf = {"ctf/scale": particles.ctf.scale, "ctf/bfactor": particles.ctf.b_factor_A2}
    return fields_of_columns(particles.table, particles.row_id) | ctf


def pose_fields(particles: ParticleSet) -> dict[str, AnyArray]:
    """Return alignments3D/pose (N, 3), shift (N, 2) in pixels of psize_A, and psize_A (N,) of the set's poses."""
    if particles.source.format == "star":
        return _pose_fields(particles, None, None)
    table, rows = particles.cs, particles.row_id
    old = table.columns.get(f"{ALIGNMENTS}/pose")
    return _pose_fields(particles, shift_pixel_A(table)[rows], None if old is None else old[rows])


def neutral_statistics(particles: ParticleSet) -> dict[str, AnyArray]:
    """Return the fields (N,) of a .cs that describe an alignment, neutral in rows that were aligned anew."""
    fields = {}
    old_pose, old_shift = (particles.cs.columns.get(f"{ALIGNMENTS}/{name}") for name in ("pose", "shift"))
    same = np.zeros(particles.n, bool)
    if old_pose is not None and old_shift is not None:
        rows = particles.row_id
        apart_A = old_shift[rows] * shift_pixel_A(particles.cs)[rows, None] + particles.shift_A
        same = _same_rotation(old_pose[rows], particles) & (np.abs(apart_A).max(axis=1) < _SAME_SHIFT_A)
    for name, value in _STATISTICS.items():
        old = particles.cs.columns.get(f"{ALIGNMENTS}/{name}")
        if old is not None and old.ndim == 1 and _belongs_to_pose(name):
            fields[f"{ALIGNMENTS}/{name}"] = np.where(same, old[particles.row_id], value).astype(old.dtype)
    return fields


def _belongs_to_pose(name: str) -> bool:
    return cryosparc_field(f"{ALIGNMENTS}/{name}").pose is Treatment.RENEWED


def alignment_fields(particles: ParticleSet) -> dict[str, AnyArray]:
    """Return what makes particles of a .cs ones of a refinement: their poses, split, and the other fields of that slot.

    Fields of alignments3D that the file has keep their values, but for poses and half-sets; those that it lacks get
    neutral ones.
    """
    table, n = particles.cs, particles.n
    fields = pose_fields(particles)
    fields[f"{ALIGNMENTS}/split"] = np.maximum(particles.half_set.astype(np.int64) - 1, 0).astype(np.uint32)
    neutral: dict[str, AnyArray] = {name: np.full(n, value, np.float32) for name, value in _STATISTICS.items()}
    neutral["class"] = np.zeros(n, np.uint32)
    for name, values in neutral.items():
        if f"{ALIGNMENTS}/{name}" not in table:
            fields[f"{ALIGNMENTS}/{name}"] = values
    return fields


def _pose_fields(particles: ParticleSet, pixel_A: AnyArray | None, old_pose: AnyArray | None) -> dict[str, AnyArray]:
    """As :func:`pose_fields`; where ``old_pose`` (N, 3) is the same rotation, its vector is kept."""
    pixel_A = particles.pixel_size_A if pixel_A is None else pixel_A.astype(np.float64)
    pose = pose_from_rotation(particles.rotation).astype(np.float32)
    if old_pose is not None and old_pose.shape == pose.shape:
        pose = np.where(_same_rotation(old_pose, particles)[:, None], old_pose, pose).astype(np.float32)
    return {
        f"{ALIGNMENTS}/pose": pose,
        f"{ALIGNMENTS}/shift": (0.0 - particles.shift_A / pixel_A[:, None]).astype(np.float32),
        f"{ALIGNMENTS}/psize_A": pixel_A.astype(np.float32),
    }


def _same_rotation(pose: AnyArray, particles: ParticleSet) -> AnyArray:
    """Return (N,) whether rotation vectors (N, 3) are the rotations of the set."""
    return np.asarray(np.abs(rotation_from_pose(pose) - particles.rotation).max(axis=(1, 2)) < _SAME_ROTATION)


def _blob(particles: ParticleSet, dark: bool) -> dict[str, AnyArray]:
    boxes = [group.box_size for group in particles.optics]
    used = sorted(set(particles.optics_index.tolist()))
    unknown = [particles.optics[index].name for index in used if boxes[index] is None]
    if unknown:
        raise InputError(
            f"{particles.path}: the image size of {unknown[0]} is unknown (no rlnImageSize, and its stack is not found "
            f"from {particles.project_dir}): give the project directory"
        )
    box = np.array([one or 0 for one in boxes], np.uint32)[particles.optics_index]
    names = as_column(np.array([stack_file(name) for name in particles.stack_names], object))
    return {
        "blob/path": names[particles.stack_id],
        "blob/idx": particles.stack_index.astype(np.uint32),
        "blob/shape": np.stack([box, box], axis=1),
        "blob/psize_A": particles.pixel_size_A.astype(np.float32),
        "blob/sign": np.full(particles.n, -1 if dark else 1, np.float32),
        "blob/import_sig": np.zeros(particles.n, np.uint64),
    }


def _exposure_ids(particles: ParticleSet, known: AnyArray | None) -> AnyArray:
    """Return (N,) ids: the known ones unless groups were merged since, else the optics group's number minus 1."""
    if known is not None:
        _, first, inverse = np.unique(particles.optics_index, return_index=True, return_inverse=True)
        if np.array_equal(known[first][inverse], known):
            return known.astype(np.uint32)
    # RELION counts groups from 1; files of other programs may count from 0, or have negative numbers.
    number = np.array([group.number for group in particles.optics], np.int64)
    return (number - min(1, int(number.min()))).astype(np.uint32)[particles.optics_index]


def _ctf(particles: ParticleSet, exposure: AnyArray) -> dict[str, AnyArray]:
    ctf, index, n = particles.ctf, particles.optics_index, particles.n

    def per_group(values: list[Any]) -> AnyArray:
        return np.array(values, np.float32)[index]

    groups = particles.optics
    matrix = [np.asarray(group.mag_matrix) - np.eye(2) for group in groups]
    return {
        "ctf/type": np.full(n, b"imported"),
        "ctf/exp_group_id": exposure,
        "ctf/accel_kv": per_group([group.voltage_kV for group in groups]),
        "ctf/cs_mm": per_group([group.cs_mm for group in groups]),
        "ctf/amp_contrast": per_group([group.amplitude_contrast for group in groups]),
        "ctf/df1_A": ctf.defocus_u_A.astype(np.float32),
        "ctf/df2_A": ctf.defocus_v_A.astype(np.float32),
        "ctf/df_angle_rad": ctf.defocus_angle_rad.astype(np.float32),
        "ctf/phase_shift_rad": ctf.phase_shift_rad.astype(np.float32),
        "ctf/scale": ctf.scale.astype(np.float32),
        "ctf/scale_const": np.zeros(n, np.float32),
        "ctf/shift_A": np.zeros((n, 2), np.float32),
        "ctf/tilt_A": per_group([beam_tilt_to_cs(group.beam_tilt_mrad, group.cs_mm) for group in groups]),
        "ctf/trefoil_A": np.zeros((n, 2), np.float32),
        "ctf/tetra_A": np.zeros((n, 4), np.float32),
        "ctf/anisomag": per_group([one.ravel() for one in matrix]),
        "ctf/bfactor": ctf.b_factor_A2.astype(np.float32),
    }


def _classes(particles: ParticleSet) -> AnyArray:
    classes = particles.source.classes()
    return np.zeros(particles.n, np.int64) if classes is None else classes[particles.row_id]


def _location(
    particles: ParticleSet, exposure: AnyArray, embedded: dict[str, AnyArray], flip_y: bool
) -> dict[str, AnyArray]:
    """Return location/* when the micrographs' shape (N, 2) was embedded, or all have readable headers; else nothing."""
    table, rows = particles.table, particles.row_id
    if "rlnMicrographName" not in table:
        return {}
    distinct, code = np.unique(table.text("rlnMicrographName")[rows], return_inverse=True)
    if any(label not in table for label in _LOCATION):  # the fractions may have come along
        return {"location/micrograph_path": as_column(distinct)[code]} if "location/center_x_frac" in embedded else {}
    shape = embedded.get("location/micrograph_shape")
    if shape is None or np.any(shape == 0):
        shape = _micrograph_shapes(particles, distinct.tolist(), code)
    if shape is None or np.any(shape == 0):
        return {}
    uid = np.array([int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")
                    for name in distinct.tolist()], np.uint64)  # fmt: skip
    fractions = {"center_x_frac": finite_column(table, "rlnCoordinateX")[rows] / shape[:, 1],
                 "center_y_frac": finite_column(table, "rlnCoordinateY")[rows] / shape[:, 0]}  # fmt: skip
    if flip_y:
        fractions["center_y_frac"] = 1.0 - fractions["center_y_frac"]
    for name, fraction in fractions.items():
        old = embedded.get(f"location/{name}", fraction)
        fractions[name] = np.where(np.abs(old - fraction) < _SAME_FRACTION, old, fraction)
    return {
        "location/micrograph_uid": uid[code],
        "location/exp_group_id": exposure,
        "location/micrograph_path": as_column(distinct)[code],
        "location/micrograph_shape": shape.astype(np.uint32),
        **{f"location/{name}": fraction.astype(np.float32) for name, fraction in fractions.items()},
    }


def _outside_notes(location: dict[str, AnyArray]) -> list[str]:
    """Say when positions lie outside of their micrographs, as those in Å or of unbinned micrographs do."""
    names = [f"location/center_{axis}_frac" for axis in "xy"]
    if any(name not in location for name in names):
        return []
    fractions = np.stack([location[name] for name in names], axis=1)
    outside = int(np.count_nonzero(((fractions < 0) | (fractions > 1)).any(axis=1)))
    if not outside:
        return []
    return [
        f"{outside} of {len(fractions)} positions lie outside of their micrographs (rlnCoordinateX, rlnCoordinateY "
        "count pixels of rlnMicrographName): they may be in Å, or of micrographs that were binned since"
    ]


def _micrograph_shapes(particles: ParticleSet, names: list[str], code: AnyArray) -> AnyArray | None:
    """Return (N, 2) rows and columns of the micrographs from their headers; None when one has no readable header."""
    sizes = []
    for name in names:
        path = particles.project_dir / name
        if path.suffix.lower() not in (".mrc", ".mrcs") or is_missing(path):
            return None
        try:
            header = read_mrc_header(path)
        except InputError:
            return None  # movies and pictures of other formats are no reason to convert nothing
        sizes.append((header.ny, header.nx))
    return np.array(sizes)[code]

"""Optics that changed after their file was read: taken from another file, and put into columns of the first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.metadata.cryosparc_alignments import ALIGNMENTS, shift_pixel_A
from cryodrgn_ext.metadata.cryosparc_optics import beam_tilt_to_cs
from cryodrgn_ext.metadata.cs import AnyArray
from cryodrgn_ext.metadata.optics import PIXEL_SIZE_COLUMNS, PREMULTIPLIED, OpticsGroup, read_optics_table
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.star import TableEdit
from cryodrgn_ext.metadata.star_table import StarTable, format_values

PIXEL_SIZE = "pixel_size_A"
#: What a Global CTF refinement changes: name in messages, attribute, and by how much values of two files may differ
#: that are the same (float32 in a .cs, six decimals in a STAR file).
QUANTITIES: tuple[tuple[str, str, float], ...] = (
    ("pixel size", PIXEL_SIZE, 2e-6),
    ("voltage", "voltage_kV", 1e-4),
    ("spherical aberration", "cs_mm", 2e-6),
    ("amplitude contrast", "amplitude_contrast", 2e-6),
    ("beam tilt", "beam_tilt_mrad", 2e-6),
    ("magnification matrix", "mag_matrix", 2e-6),
)
#: Aberrations that only an optics table of RELION holds: column, name in messages, attribute.
ZERNIKE = (
    ("rlnOddZernike", "odd aberrations", "odd_zernike"), ("rlnEvenZernike", "even aberrations", "even_zernike"),
)  # fmt: skip
# Columns and fields of which one must be there to tell of a quantity that most files leave out.
_TOLD_BY = {
    "beam_tilt_mrad": {"rlnBeamTiltX", "rlnBeamTiltY", "ctf/tilt_A"},
    "mag_matrix": {"rlnMagMat00", "ctf/anisomag"},
}
# Columns of an optics table that are compared as what they mean.
_COMPARED = frozenset({
    "rlnOpticsGroup", "rlnOpticsGroupName", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast",
    "rlnImageSize", "rlnImageDimensionality", "rlnBeamTiltX", "rlnBeamTiltY",
    *(f"rlnMagMat{i}{j}" for i in (0, 1) for j in (0, 1)), *(label for label, _, _ in ZERNIKE), PREMULTIPLIED,
})  # fmt: skip


def take_optics(chosen: ParticleSet, particles: ParticleSet) -> tuple[ParticleSet, list[str]]:
    """Return ``chosen`` with the optics of ``particles`` (the same N rows), and what of them differed.

    A group of ``chosen`` whose particles are in several groups of ``particles`` is split; groups that ``particles`` has
    as one stay apart. The pixel size of images that were cropped or resampled, which have another box, is theirs only.
    """
    pairs, first, inverse = np.unique(
        np.stack([chosen.optics_index, particles.optics_index], axis=1), axis=0, return_index=True, return_inverse=True
    )
    inverse = inverse.reshape(-1)
    differing = [
        (name, attribute)
        for name, attribute, tolerance in _quantities(chosen, particles)
        if any(
            not _same(getattr(chosen.optics[a], attribute), getattr(particles.optics[b], attribute), tolerance)
            for a, b in pairs.tolist()
            if attribute != PIXEL_SIZE or not _other_box(chosen.optics[a], particles.optics[b])
        )
    ]
    split = len(pairs) > len(np.unique(pairs[:, 0]))
    if not differing and not split:
        return chosen, []
    known = {group.number for group in chosen.optics}
    taken: set[int] = set()
    groups: list[OpticsGroup] = []
    index = np.empty(len(pairs), np.int32)
    for pair in np.argsort(first).tolist():
        mine, theirs = chosen.optics[pairs[pair, 0]], particles.optics[pairs[pair, 1]]
        number, name = mine.number, mine.name
        if number in taken:
            number = max(known | {0}) + 1
            known.add(number)
            name = f"{mine.name}_{number}"
        taken.add(number)
        values = {attribute: getattr(theirs, attribute) for _, attribute in differing}
        if _other_box(mine, theirs):
            values.pop(PIXEL_SIZE, None)
        index[pair] = len(groups)
        groups.append(replace(mine, number=number, name=name, made_of=mine.number, **values))
    names = [name for name, _ in differing] + (["optics groups"] if split else [])
    return chosen.with_optics(tuple(groups), index[inverse]), names


def _quantities(chosen: ParticleSet, particles: ParticleSet) -> list[tuple[str, str, float]]:
    """Return what of :data:`QUANTITIES`, and of aberrations where both files can hold them, ``particles`` tell of.

    A column that a program left out says nothing: converters drop beam tilts and aberrations.
    """
    there = {name for name in particles.source.column_names()}
    if _has_table(particles):
        there |= set(particles.star.blocks["optics"].columns)
    found = [one for one in QUANTITIES if one[1] not in _TOLD_BY or there & _TOLD_BY[one[1]]]
    if _has_table(chosen):
        found += [(name, attribute, 2e-6) for label, name, attribute in ZERNIKE if label in there]
    return found


def _has_table(particles: ParticleSet) -> bool:
    return particles.source.format == "star" and "optics" in particles.star.blocks


def differing_optics_columns(particles: ParticleSet, chosen: ParticleSet) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return columns of optics tables that :func:`take_optics` does not take: those that differ, and those missing.

    Parameters
    ----------
    particles, chosen : ParticleSet
        The same rows in two files, of which ``chosen`` keeps its columns.

    Returns
    -------
    differing, missing : tuple of str
        Columns with other values in ``particles``, and those that only ``particles`` has and that say something.
    """
    pairs = np.unique(np.stack([chosen.optics_index, particles.optics_index], axis=1), axis=0).tolist()
    groups = [(chosen.optics[a], particles.optics[b]) for a, b in pairs]
    differing, missing = [], []
    if not _has_table(chosen):
        missing += [
            label for label, _, name in ZERNIKE if any(np.any(np.asarray(getattr(b, name)) != 0) for _, b in groups)
        ]
    if any(a.ctf_premultiplied != b.ctf_premultiplied for a, b in groups):
        differing.append(PREMULTIPLIED)
    if _has_table(chosen) and _has_table(particles):
        mine, theirs = particles.star.blocks["optics"], chosen.star.blocks["optics"]
        place = [
            {number: row for row, number in enumerate(one.integers("rlnOpticsGroup").tolist())}
            for one in (theirs, mine)
        ]
        rows = [(place[0][_number(a)], place[1][_number(b)]) for a, b in groups]
        used = {_pixel_size_column(mine), _pixel_size_column(theirs)}
        for label in (one for one in mine.columns if one not in _COMPARED | used):
            if label not in theirs:
                missing.append(label)
                continue
            texts = theirs.text(label), mine.text(label)
            if any(_other_text(texts[0][a], texts[1][b]) for a, b in rows):
                differing.append(label)
    return tuple(differing), tuple(missing)


def _pixel_size_column(optics: StarTable) -> str:
    return next(label for label in PIXEL_SIZE_COLUMNS if label in optics)


def _number(group: OpticsGroup) -> int:
    return group.number if group.made_of is None else group.made_of


def _other_text(one: str, other: str) -> bool:
    if one == other:
        return False
    try:
        return not _same(float(one), float(other), 1e-6)
    except ValueError:
        return True


def resampled_notes(chosen: ParticleSet, particles: ParticleSet) -> tuple[str, ...]:
    """Say where images of ``particles`` have another box and pixel size than those of ``chosen`` (the same rows)."""
    pairs = np.unique(np.stack([chosen.optics_index, particles.optics_index], axis=1), axis=0)
    for a, b in pairs.tolist():
        mine, theirs = chosen.optics[a], particles.optics[b]
        if _other_box(mine, theirs) and not _same(mine.pixel_size_A, theirs.pixel_size_A, 2e-6):
            return (
                f"the images of {particles.path} are {theirs.box_size} pixels of {theirs.pixel_size_A:g} Å, those of "
                f"{chosen.path} {mine.box_size} of {mine.pixel_size_A:g} Å: boxes and pixel sizes stay as they are "
                "there",
            )
    return ()


def _other_box(mine: OpticsGroup, theirs: OpticsGroup) -> bool:
    return None not in (mine.box_size, theirs.box_size) and mine.box_size != theirs.box_size


def _same(mine: Any, theirs: Any, tolerance: float) -> bool:
    a, b = np.asarray(mine, float), np.asarray(theirs, float)
    if a.shape != b.shape:  # Zernike coefficients: those that are not given are 0
        a, b = (np.pad(one, (0, max(len(a), len(b)) - len(one))) for one in (a, b))
    return bool(np.all(np.abs(a - b) <= tolerance * np.maximum(1.0, np.abs(b))))


def optics_fields(particles: ParticleSet) -> dict[str, AnyArray]:
    """Return the fields (N, ...) of a .cs that hold the set's optics, and the shifts in the new pixel size."""
    table, rows = particles.cs, particles.row_id

    def column(value: Callable[[OpticsGroup], Any]) -> AnyArray:
        return np.array([value(group) for group in particles.optics], np.float32)[particles.optics_index]

    fields: dict[str, AnyArray] = {
        "ctf/accel_kv": column(lambda one: one.voltage_kV),
        "ctf/cs_mm": column(lambda one: one.cs_mm),
        "ctf/amp_contrast": column(lambda one: one.amplitude_contrast),
        "ctf/tilt_A": column(lambda one: beam_tilt_to_cs(one.beam_tilt_mrad, one.cs_mm)),
        "ctf/anisomag": column(lambda one: (np.asarray(one.mag_matrix) - np.eye(2)).ravel()),
        "blob/psize_A": column(lambda one: one.pixel_size_A),
    }
    number = np.array([group.number for group in particles.optics])
    made_of = np.array([group.number if group.made_of is None else group.made_of for group in particles.optics])
    if np.any(number != made_of):
        fields["ctf/exp_group_id"] = np.maximum(number - 1, 0).astype(np.uint32)[particles.optics_index]
    factor = fields["blob/psize_A"] / table.columns["blob/psize_A"][rows]
    if np.any(factor != 1) and f"{ALIGNMENTS}/psize_A" in table:
        pixel_A = shift_pixel_A(table)[rows] * factor
        fields[f"{ALIGNMENTS}/psize_A"] = pixel_A.astype(np.float32)
        fields[f"{ALIGNMENTS}/shift"] = (0.0 - particles.shift_A / pixel_A[:, None]).astype(np.float32)
    return {field: _kept(values, table.columns.get(field), rows) for field, values in fields.items()}


def _kept(new: AnyArray, table_column: AnyArray | None, rows: npt.NDArray[np.int64]) -> AnyArray:
    """Return ``new`` with the old values where these are the same to within what conversions lose."""
    if table_column is None or new.dtype.kind != "f":
        return new
    old = table_column[rows]
    return np.where(np.abs(new - old) <= 2e-6 * np.maximum(1.0, np.abs(old)), old, new)


def optics_edit(particles: ParticleSet) -> TableEdit:
    """Return what to write instead of data_optics (RELION 3.1 and later): one row per group of the set."""
    table = particles.star.blocks["optics"]
    numbers = table.integers("rlnOpticsGroup").tolist()
    groups = {group.number: group for group in particles.optics}
    rows, made = list(range(table.n_rows)), list(numbers)
    for group in particles.optics:  # groups that were split come behind the others
        if group.number not in numbers:
            rows.append(numbers.index(group.made_of))
            made.append(group.number)
    known = [groups.get(number) for number in made]
    columns = {
        label: _written(table, label, rows, [None if one is None else value(one) for one in known])
        for label, value in _optics_columns(table, particles.optics).items()
    }
    columns |= _zernike_columns(table, rows, known)
    columns["rlnOpticsGroup"] = [b"%d" % number for number in made]
    if "rlnOpticsGroupName" in table:
        old = table.raw("rlnOpticsGroupName")[rows]
        names = [text if one is None else one.name for one, text in zip(known, old.tolist(), strict=True)]
        columns["rlnOpticsGroupName"] = format_values(names, label="rlnOpticsGroupName")
    return TableEdit(np.array(rows), columns)


def _zernike_columns(table: StarTable, rows: list[int], known: list[OpticsGroup | None]) -> dict[str, list[bytes]]:
    """Return columns of aberrations, as they were read where they are the same."""
    groups = read_optics_table(table)
    before = [groups[row] for row in rows]
    columns = {}
    for label, _, attribute in ZERNIKE:
        new = [getattr(old if one is None else one, attribute) for one, old in zip(known, before, strict=True)]
        if label not in table and not any(new):
            continue
        text = table.raw(label)[rows].tolist() if label in table else [b""] * len(rows)
        length = max(len(one) for one in (*new, *(getattr(old, attribute) for old in before)))
        columns[label] = [
            was if was and _same(one, getattr(old, attribute), 1e-9) else _vector_text(one, length)
            for one, old, was in zip(new, before, text, strict=True)
        ]
    return columns


def _vector_text(values: tuple[float, ...], length: int) -> bytes:
    """Return a vector as RELION writes it, filled up with 0."""
    return b"[" + b",".join(b"%.9g" % one for one in (*values, *[0.0] * (length - len(values)))) + b"]"


def particle_optics_columns(particles: ParticleSet) -> dict[str, list[bytes]]:
    """Return the columns (N,) of the particles that hold the set's optics.

    With an optics table that is the number of the group; without one (RELION 3.0) all that differs.
    """
    table, index = particles.table, particles.optics_index
    if "optics" in particles.star.blocks:
        return {"rlnOpticsGroup": format_values(np.array([group.number for group in particles.optics])[index])}
    columns = {}
    values = _optics_columns(table, particles.optics, in_particles=True)
    for label, value in values.items():
        new = np.array([value(group) for group in particles.optics])[index]
        columns[label] = _written(table, label, particles.row_id, new.tolist())
    detector_um = table.floats("rlnDetectorPixelSize")[particles.row_id]
    columns["rlnMagnification"] = _written(
        table, "rlnMagnification", particles.row_id, (1e4 * detector_um / particles.pixel_size_A).tolist()
    )
    return columns


def _magnification(i: int, j: int, group: OpticsGroup) -> float:
    return group.mag_matrix[i][j]


def _optics_columns(
    table: StarTable, groups: tuple[OpticsGroup, ...], in_particles: bool = False
) -> dict[str, Callable[[OpticsGroup], float]]:
    """Return the columns of optics that a table has or needs, and how their values follow from a group."""
    columns: dict[str, Callable[[OpticsGroup], float]] = {
        "rlnVoltage": lambda one: one.voltage_kV,
        "rlnSphericalAberration": lambda one: one.cs_mm,
        "rlnAmplitudeContrast": lambda one: one.amplitude_contrast,
    }
    if not in_particles:
        columns[_pixel_size_column(table)] = lambda one: one.pixel_size_A
    if "rlnBeamTiltX" in table or any(group.beam_tilt_mrad != (0.0, 0.0) for group in groups):
        columns |= {
            "rlnBeamTiltX": lambda one: one.beam_tilt_mrad[0],
            "rlnBeamTiltY": lambda one: one.beam_tilt_mrad[1],
        }
    if "rlnMagMat00" in table or any(group.mag_matrix != ((1.0, 0.0), (0.0, 1.0)) for group in groups):
        columns |= {f"rlnMagMat{i}{j}": partial(_magnification, i, j) for i in (0, 1) for j in (0, 1)}
    return columns


def _written(
    table: StarTable, label: str, rows: npt.NDArray[np.int64] | list[int], new: list[float | None]
) -> list[bytes]:
    """Return ``new`` as text, with the characters that were read where the value is the same, or None."""
    if label not in table:
        identity = 1.0 if label in ("rlnMagMat00", "rlnMagMat11") else 0.0
        return format_values(np.array([identity if one is None else one for one in new]), "%.6f", label)
    old, text = table.floats(label)[rows], table.raw(label)[rows]
    values = np.where([one is None for one in new], old, np.array([0.0 if one is None else one for one in new]))
    fresh = format_values(values, "%.6f", label)
    same = np.abs(values - old) <= 1e-6 * np.maximum(1.0, np.abs(old))
    return [before if keep else after for before, after, keep in zip(text.tolist(), fresh, same.tolist(), strict=True)]

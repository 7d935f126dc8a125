"""Poses, shifts, half-sets and classes in the alignments of a .cs file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cs import CsTable
from cryodrgn_ext.metadata.particle_ctf import Float64Array

ALIGNMENTS, MULTI, ALIGNMENTS_2D = "alignments3D", "alignments3D_multi", "alignments2D"


def shift_pixel_A(table: CsTable) -> Float64Array:
    """Return (N,) the pixel size in which alignments3D/shift counts: its own, else that of the images."""
    for field in (f"{ALIGNMENTS}/psize_A", f"{MULTI}/psize_A"):
        if field in table:
            size = table.floats(field)
            size = size[:, 0] if size.ndim == 2 else size
            if np.any(size <= 0):
                row = int(np.argmax(size <= 0))
                raise InputError(f"{table.describe_row(row)}: {field} is {size[row]:g}, but must be above 0")
            return size
    return table.floats("blob/psize_A")


def read_alignments(table: CsTable, require_poses: bool) -> tuple[CsTable, Float64Array | None, Float64Array | None]:
    """Return poses (N, 3) and shifts (N, 2), or None, and the table with a note on where they come from."""
    if f"{ALIGNMENTS}/pose" in table:
        pose, shift = table.floats(f"{ALIGNMENTS}/pose"), table.floats(f"{ALIGNMENTS}/shift")
        for field, found, width in (("pose", pose, 3), ("shift", shift, 2)):
            if found.shape != (table.n_rows, width):
                raise InputError(
                    f"{table.path}: {ALIGNMENTS}/{field} has the shape {found.shape}, but ({table.n_rows}, {width}) is "
                    "expected"
                )
        return table, pose, shift
    if f"{MULTI}/pose" in table:
        return _best_class(table)
    if require_poses:
        raise InputError(
            f"{table.path}: has no orientations (alignments3D/pose); particles of a 3D refinement are expected, with "
            "the passthrough file if that holds them"
        )
    return table, None, None


def _best_class(table: CsTable) -> tuple[CsTable, Float64Array, Float64Array]:
    """Take from alignments3D_multi the pose of every particle's most probable class."""
    pose, shift = table.floats(f"{MULTI}/pose"), table.floats(f"{MULTI}/shift")
    if f"{MULTI}/class_posterior" not in table:
        raise InputError(
            f"{table.path}: has poses of several classes (alignments3D_multi) without class_posterior, so none can be "
            "chosen; give the particles of one class, which have alignments3D"
        )
    posterior = table.floats(f"{MULTI}/class_posterior")
    if pose.ndim != 3 or posterior.shape != pose.shape[:2] or shift.shape != (*pose.shape[:2], 2):
        raise InputError(
            f"{table.path}: {MULTI} has poses of the shape {pose.shape}, shifts {shift.shape} and class_posterior "
            f"{posterior.shape}, but (N, K, 3), (N, K, 2) and (N, K) are expected"
        )
    best = np.argmax(posterior, axis=1)
    rows = np.arange(table.n_rows)
    counts = ", ".join(str(count) for count in np.bincount(best, minlength=pose.shape[1]).tolist())
    note = (
        f"{table.path}: has poses of {pose.shape[1]} classes (alignments3D_multi); of each particle the pose of its "
        f"most probable class is used ({counts} particles)"
    )
    return replace(table, notes=(*table.notes, note)), pose[rows, best], shift[rows, best]


def class_index(table: CsTable) -> npt.NDArray[np.int64] | None:
    """Return (N,) the class of every particle, from 0; None when the file has no single classes."""
    for field in (f"{ALIGNMENTS}/class", "alignments2D/class"):
        if field in table and table.column(field).ndim == 1:
            return table.integers(field)
    if f"{MULTI}/class_posterior" in table:
        best: npt.NDArray[np.int64] = np.argmax(table.floats(f"{MULTI}/class_posterior"), axis=1).astype(np.int64)
        if f"{MULTI}/class" in table and table.column(f"{MULTI}/class").ndim == 2:
            best = table.integers(f"{MULTI}/class")[np.arange(len(best)), best]
        return best
    return None


def half_sets(table: CsTable) -> npt.NDArray[np.int8]:
    """Return (N,) half-sets 1 and 2; 0 when the file has none."""
    field = next((one for one in (f"{ALIGNMENTS}/split", f"{MULTI}/split") if one in table), None)
    if field is None or table.column(field).ndim != 1:
        return np.zeros(table.n_rows, np.int8)
    split = table.integers(field)
    wrong = np.flatnonzero(split > 1)
    if len(wrong):
        row = int(wrong[0])
        raise InputError(f"{table.describe_row(row)}: {field} is {split[row]}, but 0 or 1 is expected")
    return (split + 1).astype(np.int8)


def shifts_2d_A(table: CsTable) -> Float64Array:
    """Return (N, 2) shifts of a 2D classification, taken to follow the convention of alignments3D/shift."""
    shift_px = table.floats(f"{ALIGNMENTS_2D}/shift")
    if shift_px.shape != (table.n_rows, 2):
        raise InputError(
            f"{table.path}: {ALIGNMENTS_2D}/shift has the shape {shift_px.shape}, but ({table.n_rows}, 2) is expected"
        )
    size = f"{ALIGNMENTS_2D}/psize_A"
    pixel_A = table.floats(size if size in table else "blob/psize_A")
    return np.asarray(0.0 - shift_px * pixel_A[:, None], np.float64)

"""Poses, shifts, half-sets and classes in the alignments of a .cs file."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cs import CsTable
from cryodrgn_ext.metadata.particle_ctf import Float64Array

ALIGNMENTS, MULTI, ALIGNMENTS_2D = "alignments3D", "alignments3D_multi", "alignments2D"
_CLASS_POSE = re.compile(r"alignments_class_(\d+)/pose")


def shift_pixel_A(table: CsTable) -> Float64Array:
    """Return (N,) the pixel size in which the shifts count: that of the alignments, else that of the images."""
    several = None if f"{ALIGNMENTS}/pose" in table else several_classes(table)
    field, size = f"{ALIGNMENTS}/psize_A", None
    if several is not None:
        field, size = several.field("psize_A"), several.best(several.values("psize_A"))
    elif field in table:
        size = table.floats(field)
    if size is None:
        return table.floats("blob/psize_A")
    if np.any(size <= 0):
        row = int(np.argmax(size <= 0))
        raise InputError(f"{table.describe_row(row)}: {field} is {size[row]:g}, but must be above 0")
    return size


@dataclass(frozen=True, eq=False)
class SeveralClasses:
    """Alignments of every particle to K classes.

    CryoSPARC from 4.5 on has them in one slot, ``alignments3D_multi``, whose fields have a value for every class; up
    to 4.4 every class has a slot of its own, ``alignments_class_0``, ``alignments_class_1``, ...

    Attributes
    ----------
    table : CsTable
    numbers : tuple of int
        Of the classes that have slots of their own; empty for the one slot.
    """

    table: CsTable
    numbers: tuple[int, ...] = ()

    def field(self, name: str) -> str:
        """Return the field, or fields, for a message."""
        return f"alignments_class_{self.numbers[0]}/{name}" if self.numbers else f"{MULTI}/{name}"

    @property
    def slots(self) -> str:
        """The slots, for a message."""
        return f"alignments_class_0 to {self.numbers[-1]}" if self.numbers else MULTI

    def values(self, name: str) -> Float64Array | None:
        """Return (N, K, ...) values of a field, or (N,) where all classes share them; None when there is none."""
        fields = [f"alignments_class_{number}/{name}" for number in self.numbers] or [f"{MULTI}/{name}"]
        if any(field not in self.table for field in fields):
            return None
        if not self.numbers:
            return self.table.floats(fields[0])
        return np.stack([self.table.floats(field) for field in fields], axis=1)

    def most_probable(self) -> npt.NDArray[np.int64]:
        """Return (N,) which of the K classes is the most probable one of every particle."""
        posterior = self.values("class_posterior")
        if posterior is None and len(self.numbers) == 1:
            return np.zeros(self.table.n_rows, np.int64)
        if posterior is None:
            raise InputError(
                f"{self.table.path}: has poses of several classes ({self.slots}) without class_posterior, so none can "
                "be chosen; give the particles of one class, which have alignments3D"
            )
        return np.asarray(np.argmax(posterior, axis=1), np.int64)

    def best(self, values: Float64Array | None) -> Float64Array | None:
        """Return (N, ...) the values of the most probable class."""
        if values is None or values.ndim == 1:
            return values
        return np.asarray(values[np.arange(len(values)), self.most_probable()])


def several_classes(table: CsTable) -> SeveralClasses | None:
    """Return the alignments to several classes of a dataset; None when it has none."""
    if f"{MULTI}/pose" in table:
        return SeveralClasses(table)
    numbers = sorted(int(match[1]) for field in table.columns if (match := _CLASS_POSE.fullmatch(field)))
    return SeveralClasses(table, tuple(numbers)) if numbers else None


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
    several = several_classes(table)
    if several is not None:
        return _best_class(table, several)
    if require_poses:
        raise InputError(
            f"{table.path}: has no orientations (alignments3D/pose); particles of a 3D refinement are expected, with "
            "the passthrough file if that holds them"
        )
    return table, None, None


def _best_class(table: CsTable, several: SeveralClasses) -> tuple[CsTable, Float64Array, Float64Array]:
    """Take the pose of every particle's most probable class."""
    pose, shift, posterior = (several.values(name) for name in ("pose", "shift", "class_posterior"))
    best = several.most_probable()
    k = 1 if pose is None else pose.shape[1]
    shapes = [None if one is None else one.shape for one in (pose, shift, posterior)]
    n = table.n_rows
    if shapes[:2] != [(n, k, 3), (n, k, 2)] or shapes[2] not in ((n, k), None) or pose is None or shift is None:
        raise InputError(
            f"{table.path}: {several.slots} has poses of the shape {shapes[0]}, shifts {shapes[1]} and class_posterior "
            f"{shapes[2]}, but (N, K, 3), (N, K, 2) and (N, K) are expected"
        )
    counts = ", ".join(str(count) for count in np.bincount(best, minlength=k).tolist())
    note = (
        f"{table.path}: has poses of {k} classes ({several.slots}); of each particle the pose of its most probable "
        f"class is used ({counts} particles)"
    )
    rows = np.arange(n)
    return replace(table, notes=(*table.notes, note)), pose[rows, best], shift[rows, best]


def class_index(table: CsTable) -> npt.NDArray[np.int64] | None:
    """Return (N,) the class of every particle, from 0; None when the file has no single classes.

    Classes of 3D alignments go before those of a 2D classification, which may have come along from an earlier job.
    """
    if f"{ALIGNMENTS}/class" in table and table.column(f"{ALIGNMENTS}/class").ndim == 1:
        return table.integers(f"{ALIGNMENTS}/class")
    several = several_classes(table)
    if several is not None and several.values("class_posterior") is not None:
        best = several.most_probable()
        if several.numbers:
            return np.array(several.numbers, np.int64)[best]
        if f"{MULTI}/class" in table and table.column(f"{MULTI}/class").ndim == 2:
            return table.integers(f"{MULTI}/class")[np.arange(len(best)), best]
        return best
    if f"{ALIGNMENTS_2D}/class" in table and table.column(f"{ALIGNMENTS_2D}/class").ndim == 1:
        return table.integers(f"{ALIGNMENTS_2D}/class")
    return None


def half_sets(table: CsTable) -> npt.NDArray[np.int8]:
    """Return (N,) half-sets 1 and 2; 0 when the file has none."""
    several = several_classes(table)
    slots = (ALIGNMENTS, MULTI, *(f"alignments_class_{number}" for number in (several.numbers if several else ())))
    field = next((f"{slot}/split" for slot in slots if f"{slot}/split" in table), None)
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

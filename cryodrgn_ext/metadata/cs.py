"""CryoSPARC's .cs files in both of their forms: read, joined by uid, and written without changing a value.

The numpy form (a structured array in the .npy layout, text as fixed-width bytes) is read by numpy itself, so that the
types stay those of the file; the stream form (CSDAT, optionally compressed) by :mod:`cryodrgn_ext.metadata.cs_stream`
with the decoder of cryosparc-tools. What is written is the numpy form, which every version of CryoSPARC and of its
tools reads. Nothing is ever unpickled.
"""

from __future__ import annotations

import os
import tokenize
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.durable_files import atomic_path
from cryodrgn_ext.errors import InputError, looked_in
from cryodrgn_ext.metadata.cs_stream import MAGIC as STREAM_MAGIC
from cryodrgn_ext.metadata.cs_stream import read_stream

AnyArray: TypeAlias = npt.NDArray[Any]
UidArray: TypeAlias = npt.NDArray[np.uint64]

_NUMPY_MAGIC = b"\x93NUMPY"
_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_MAX_HEADER_BYTES = 1 << 24  # numpy's own limit of 10,000 is too short for some datasets
_CHUNK_ROWS = 1 << 14


@dataclass(frozen=True, eq=False, repr=False)
class CsTable:
    """The columns of a .cs file, or of several that were joined.

    Attributes
    ----------
    path : Path
        The file that gives the rows and their order.
    columns : dict of str to (N, ...) array
        By field (``uid``, ``blob/path``, ...) in the order of the file; text as fixed-width bytes.
    joined : tuple of Path
        Files whose columns were joined.
    notes : tuple of str
        What a user should know about how the file was understood; one sentence each.
    """

    path: Path
    columns: dict[str, AnyArray]
    joined: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def n_rows(self) -> int:
        """Number N of rows."""
        return len(self.uid)

    @property
    def uid(self) -> UidArray:
        """(N,) uint64 identifiers."""
        return self.columns["uid"]

    def __contains__(self, field: object) -> bool:
        return field in self.columns

    def column(self, field: str) -> AnyArray:
        """Return one column; InputError when there is none of that name."""
        try:
            return self.columns[field]
        except KeyError:
            among = f" (nor {', '.join(str(path) for path in self.joined)})" if self.joined else ""
            raise InputError(f"{self.path}: has no field {field}{among}") from None

    def floats(self, field: str) -> npt.NDArray[np.float64]:
        """Return a column as (N, ...) float64; InputError names the first row that is not finite or not a number."""
        values = self.column(field)
        if values.dtype.kind not in "fiu":
            raise InputError(f"{self.path}: {field} has the type {values.dtype}, but numbers are expected")
        with np.errstate(invalid="ignore"):  # of a NaN of the signalling kind, refused below
            numbers = values.astype(np.float64)
        wrong = np.flatnonzero(~np.isfinite(numbers.reshape(len(numbers), -1)).all(axis=1))
        if len(wrong):
            row = int(wrong[0])
            raise InputError(
                f"{self.describe_row(row)}: {field} is {numbers[row].tolist()} ({len(wrong)} such rows), but finite "
                "numbers are expected"
            )
        return numbers

    def integers(self, field: str) -> npt.NDArray[np.int64]:
        """Return a column as (N, ...) int64; InputError when it does not hold whole numbers of at least 0."""
        values = self.column(field)
        if values.dtype.kind not in "iu":
            raise InputError(f"{self.path}: {field} has the type {values.dtype}, but whole numbers are expected")
        numbers = values.astype(np.int64)
        wrong = np.flatnonzero((numbers < 0).reshape(len(numbers), -1).any(axis=1))
        if len(wrong):
            row = int(wrong[0])
            raise InputError(
                f"{self.describe_row(row)}: {field} is {numbers[row].tolist()}, but must not be negative "
                f"({len(wrong)} such rows)"
            )
        return numbers

    def coded_text(self, field: str) -> tuple[tuple[str, ...], npt.NDArray[np.intp]]:
        """Return the distinct texts of a column in order of appearance, and for every row (N,) which one it has."""
        values = self.column(field)
        if values.dtype.kind not in "SU" or values.ndim != 1:
            raise InputError(f"{self.path}: {field} has the type {values.dtype}, but text is expected")
        # Neighbours mostly share a stack: only the first row of every run has to be sorted.
        begins = np.ones(len(values), bool)
        begins[1:] = values[1:] != values[:-1]
        starts = np.flatnonzero(begins)
        distinct, first, inverse = np.unique(values[starts], return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))
        code = np.repeat(rank[inverse], np.diff(starts, append=len(values)))
        texts = distinct[np.argsort(first)].tolist()
        try:
            names = tuple(text.decode() if isinstance(text, bytes) else text for text in texts)
        except UnicodeDecodeError as error:
            row = int(np.argmax(values == error.object))
            raise InputError(
                f"{self.describe_row(row)}: {field} is {error.object!r}, but text in UTF-8 is expected: rename the file"
            ) from None
        odd = next((place for place, name in enumerate(names) if any(letter < " " for letter in name)), None)
        if odd is not None:  # zero bytes within, line ends: no name of a file
            row = int(np.argmax(code == odd))
            raise InputError(f"{self.describe_row(row)}: {field} is {names[odd]!r}, but a name is expected")
        return names, code

    def describe_row(self, row: int) -> str:
        """Name a row for a message: file, 1-based row, uid."""
        return f"{self.path}: row {row + 1} (uid {self.uid[row]})"


def read_cs(path: str | Path, passthroughs: Sequence[str | Path] = ()) -> CsTable:
    """Read a .cs file of either form, and join passthrough files by uid.

    Parameters
    ----------
    path : path-like
    passthroughs : sequence of path-like
        Files with further fields of the same particles; fields that ``path`` has are not taken from them.

    Returns
    -------
    CsTable
        The rows of ``path`` in their order.

    Raises
    ------
    InputError
        When a file is missing, unreadable, damaged, not a .cs file, holds Python objects (which only unpickling could
        read), has no uid or one twice; when a passthrough lacks a uid.
    """
    table = _read_one(Path(path))
    for other in passthroughs:
        table = joined(table, _read_one(Path(other)))
    return table


def joined(table: CsTable, other: CsTable, prefix: str | None = None) -> CsTable:
    """Return ``table`` with the slots of ``other`` that it lacks, joined by uid.

    The fields of a slot belong together (a shift counts pixels of the size beside it): of a slot that ``table`` has,
    nothing is taken, and a note says so.

    Parameters
    ----------
    table, other : CsTable
    prefix : str, optional
        Take only fields ``prefix/...``.

    Raises
    ------
    InputError
        Naming the first uid that ``other`` lacks.
    """
    present = {field.split("/")[0] for field in table.columns}
    further = [
        field
        for field in other.columns
        if field not in table.columns and (prefix is None or field.startswith(prefix + "/"))
    ]
    wanted = [field for field in further if field.split("/")[0] not in present]
    left = [field for field in further if field not in wanted]
    rows = find_uids(other, table.uid, f"of {table.path}")
    columns = table.columns | {field: other.columns[field][rows] for field in wanted}
    differing = [
        field
        for field in table.columns
        if field in other.columns and field != "uid" and (prefix is None or field.startswith(prefix + "/"))
        if not np.array_equal(table.columns[field], other.columns[field][rows])
    ]
    notes = table.notes
    if differing:
        notes += (f"{other.path}: has other values of {', '.join(differing)}; those of {table.path} are used",)
    if left:
        notes += (
            f"{other.path}: has further fields of slots that {table.path} has of its own, which are left out, as they "
            f"belong to other values: {', '.join(left)}",
        )
    return replace(table, columns=columns, joined=(*table.joined, other.path), notes=notes)


def find_uids(table: CsTable, uid: UidArray, whose: str) -> npt.NDArray[np.intp]:
    """Return the rows (n,) of ``table`` with these identifiers; InputError names the first that is missing."""
    if np.array_equal(table.uid, uid):
        return np.arange(len(uid))
    order = np.argsort(table.uid)
    place = np.searchsorted(table.uid, uid, sorter=order)
    found = order[np.minimum(place, len(order) - 1)] if len(order) else np.zeros(len(uid), np.intp)
    missing = np.flatnonzero(table.uid[found] != uid) if len(order) else np.arange(len(uid))
    if len(missing):
        row = int(missing[0])
        why = (
            "the two files do not belong together"
            if len(missing) == len(uid)
            else "a passthrough must have all particles: give the one of this very output"
        )
        raise InputError(
            f"{table.path}: lacks {len(missing)} of {len(uid)} particles, the first being uid {uid[row]} "
            f"(row {row + 1} {whose}); {why}"
        )
    return found


def write_cs(
    path: str | Path,
    table: CsTable,
    rows: npt.NDArray[np.integer[Any]] | None = None,
    columns: Mapping[str, AnyArray] | None = None,
) -> tuple[str, ...]:
    """Write the numpy form of a .cs file atomically, a few thousand rows at a time.

    Parameters
    ----------
    path : path-like
        The new file; its directory must exist.
    table : CsTable
    rows : (n,) int array, optional
        Which rows, in which order; all when omitted.
    columns : mapping of str to (n, ...) array, optional
        New values of fields: a field that the table has is replaced in its place and keeps its type, others are
        appended. Text may be given as str or bytes arrays.

    Returns
    -------
    tuple of str
        The fields that the file has, in order.

    Raises
    ------
    InputError
        For columns of the wrong length or shape, or when the file cannot be written.
    """
    path = Path(path)
    chosen = np.arange(table.n_rows) if rows is None else np.asarray(rows, np.int64)
    new = {field: _fitted(table, field, values, len(chosen)) for field, values in (columns or {}).items()}
    names = [*table.columns, *(field for field in new if field not in table.columns)]
    arrays = {name: new.get(name, table.columns.get(name)) for name in names}
    dtype = np.dtype([(name, one.dtype, one.shape[1:]) for name, one in arrays.items() if one is not None])
    try:
        with atomic_path(path) as temporary, open(temporary, "wb") as handle:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (len(chosen),)}
            long_header = len(str(header)) > 60_000  # the first layout holds 65,535 bytes
            write_header = np.lib.format.write_array_header_2_0 if long_header else np.lib.format.write_array_header_1_0
            write_header(handle, header)
            for begin in range(0, len(chosen), _CHUNK_ROWS):
                part = chosen[begin : begin + _CHUNK_ROWS]
                record = np.empty(len(part), dtype)
                for name in names:
                    record[name] = new[name][begin : begin + len(part)] if name in new else table.columns[name][part]
                handle.write(record.tobytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    return tuple(names)


def as_column(values: AnyArray) -> AnyArray:
    """Return an array in a form that a .cs file can hold: text as fixed-width UTF-8 bytes."""
    values = np.asarray(values)
    if values.dtype.kind not in "UO":
        return values
    encoded = [str(text).encode() for text in values.tolist()]
    return np.array(encoded, dtype=f"S{max(map(len, encoded), default=1) or 1}")


def _fitted(table: CsTable, field: str, values: AnyArray, n: int) -> AnyArray:
    array = as_column(values)
    if len(array) != n:
        raise InputError(f"the field {field} has {len(array)} values for {n} particles")
    old = table.columns.get(field)
    if old is None or old.dtype.kind in "SU":
        return array
    if array.shape[1:] != old.shape[1:]:
        raise InputError(f"the field {field} has the shape {array.shape[1:]} a row, but the file has {old.shape[1:]}")
    return array.astype(old.dtype)


def _read_one(path: Path) -> CsTable:
    try:
        with open(path, "rb") as handle:
            magic = handle.read(6)
            handle.seek(0)
            if magic == _NUMPY_MAGIC:
                columns = _read_numpy(handle, path)
            elif magic == STREAM_MAGIC:
                columns = read_stream(handle, path)
            else:
                raise InputError(f"{path}: is no .cs file of CryoSPARC (neither its numpy form nor its stream form)")
    except FileNotFoundError:
        raise InputError(f"{path}: this .cs file does not exist{looked_in(path)}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    return checked_table(CsTable(path, columns))


def checked_table(table: CsTable) -> CsTable:
    """Return a table whose uid is there, unique and uint64; InputError when it is not."""
    if "uid" not in table.columns:
        raise InputError(f"{table.path}: has no field uid, so it is no dataset of CryoSPARC")
    uid = table.columns["uid"]
    if uid.dtype.kind not in "iu" or uid.ndim != 1:
        raise InputError(f"{table.path}: uid has the type {uid.dtype}, but whole numbers are expected")
    order = np.argsort(uid, kind="stable")
    twice = np.flatnonzero(uid[order[1:]] == uid[order[:-1]])
    if len(twice):
        first, second = int(order[twice[0]]), int(order[twice[0] + 1])
        raise InputError(
            f"{table.path}: the uid {uid[first]} is in row {first + 1} and again in row {second + 1} ({len(twice)} "
            "repeated in all), so rows cannot be told apart: give the output of a CryoSPARC job as it is, or give "
            "every row a uid of its own"
        )
    return replace(table, columns=table.columns | {"uid": uid.astype(np.uint64, copy=False)})


def _read_numpy(handle: IO[bytes], path: Path) -> dict[str, AnyArray]:
    try:
        version = np.lib.format.read_magic(handle)
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # about headers that Python 2 wrote
            shape, _, dtype = _HEADER_READERS[version](handle, max_header_size=_MAX_HEADER_BYTES)
    except (ValueError, KeyError, TypeError, SyntaxError, tokenize.TokenError) as error:
        raise InputError(f"{path}: is damaged: its header cannot be read ({str(error).splitlines()[0]})") from None
    if dtype.hasobject:
        raise InputError(
            f"{path}: holds pickled Python objects, which are never loaded because that could run any program; save it "
            "again with cryosparc-tools (Dataset.save)"
        )
    if dtype.names is None or len(shape) != 1 or shape[0] < 0:
        raise InputError(f"{path}: is a plain numpy array of the shape {shape}, but a table with fields is expected")
    n = shape[0]
    if os.fstat(handle.fileno()).st_size - handle.tell() < n * dtype.itemsize:
        raise InputError(f"{path}: is truncated: it ends before the last of its {n} rows")
    columns = {name: np.empty((n, *dtype[name].shape), dtype[name].base) for name in dtype.names}
    for begin in range(0, n, _CHUNK_ROWS):
        count = min(_CHUNK_ROWS, n - begin)
        rows = np.frombuffer(handle.read(count * dtype.itemsize), dtype, count)
        for name, column in columns.items():
            column[begin : begin + count] = rows[name]
    return columns

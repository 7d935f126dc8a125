"""One table of a STAR file: its columns as text, on demand as arrays; and numbers written as STAR values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.star_rows import BytesArray, RowText

Values: TypeAlias = npt.NDArray[Any] | Sequence[Any]


@dataclass(frozen=True, eq=False)
class StarTable:
    """One ``data_`` block: the names of its columns and the text of its rows.

    Attributes
    ----------
    name : str
        Name without ``data_``; may be empty.
    columns : tuple of str
        Labels without the leading underscore, in the order of the file.
    is_loop : bool
        True for a ``loop_`` table, False for a list of label-value pairs (which has one row).
    path : Path
        The file, for messages.
    head, tail : bytes
        The text from ``data_`` up to the first row, and behind the last row up to the next block.
    body : (int, int)
        Where the rows stand in ``rows.text``, comments between them included.
    rows : RowText
    """

    name: str
    columns: tuple[str, ...]
    is_loop: bool
    path: Path
    head: bytes
    tail: bytes
    body: tuple[int, int]
    rows: RowText

    @property
    def n_rows(self) -> int:
        """Number N of rows."""
        return self.rows.n_rows

    def __contains__(self, column: object) -> bool:
        return column in self.columns

    def column_position(self, column: str) -> int:
        """Position of a column; InputError when the table has none of that name."""
        try:
            return self.columns.index(column)
        except ValueError:
            raise InputError(f"{self.path}: data_{self.name} has no column _{column}") from None

    def raw(self, column: str) -> BytesArray:
        """Return a column as (N,) bytes, exactly as written but for quotes around a value."""
        return self.rows.column(self.column_position(column))

    def text(self, column: str) -> npt.NDArray[np.str_]:
        """Return a column as (N,) strings, exactly as written but for quotes around a value."""
        return decoded(self.raw(column))

    def floats(self, column: str) -> npt.NDArray[np.float64]:
        """Return a column as (N,) float64; NaN and infinity pass, other text is an InputError that names the row."""
        position = self.column_position(column)
        out = np.empty(self.n_rows, np.float64)
        for begin, values in self.rows.column_chunks(position):
            try:
                # Python's numbers may hold underscores; a STAR file's may not.
                if np.any(values.view(np.uint8) == ord("_")):
                    raise ValueError
                out[begin : begin + len(values)] = values.astype(np.float64)
            except ValueError:
                row = begin + next(i for i, value in enumerate(values.tolist()) if not _is_number(value))
                shown = decoded(values[row - begin : row - begin + 1])[0]
                raise InputError(
                    f"{self.describe_row(row)}: _{column} is '{shown}', but a number is expected"
                ) from None
        return out

    def integers(self, column: str) -> npt.NDArray[np.int64]:
        """Return a column as (N,) int64; InputError for a row whose value is no whole number."""
        numbers = self.floats(column)
        wrong = np.flatnonzero(~(np.abs(numbers) < 2.0**53) | (numbers != np.rint(numbers)))
        if len(wrong):
            row = int(wrong[0])
            raise InputError(f"{self.describe_row(row)}: _{column} is {numbers[row]:g}, but a whole number is expected")
        return numbers.astype(np.int64)

    def value(self, column: str, row: int = 0) -> str:
        """Return one value as text."""
        single = _single_row(self.rows, row)
        return str(decoded(single.column(self.column_position(column)))[0])

    def describe_row(self, row: int) -> str:
        """Name a row for a message: file, 1-based data row, line."""
        line = self.rows.text.count(b"\n", 0, int(self.rows.start[row])) + 1
        return f"{self.path}: row {row + 1} of data_{self.name} (line {line})"


def format_values(values: Values, float_format: str = "%.6g", label: str = "") -> list[bytes]:
    """Write numbers or strings as STAR values.

    Parameters
    ----------
    values : sequence or array of float, int, bool or str
    float_format : str
        For floats; integers and booleans (0, 1) are written whole.
    label : str
        For messages.

    Returns
    -------
    list of bytes

    Raises
    ------
    InputError
        For NaN or infinity (RELION reads them as 0 without a word) and for text that a STAR value cannot hold.
    """
    array = np.asarray(values)
    if array.ndim != 1:
        raise InputError(f"_{label}: a column must be one-dimensional, got the shape {array.shape}")
    if array.dtype.kind == "f":
        wrong = np.flatnonzero(~np.isfinite(array))
        if len(wrong):
            raise InputError(
                f"_{label}: value {wrong[0] + 1} is {array[wrong[0]]}, but RELION would read it as 0; "
                "only finite numbers can be written"
            )
        template = float_format.encode()
        return [template % value for value in array.tolist()]
    if array.dtype.kind in "iub":
        return [b"%d" % value for value in array.tolist()]
    if array.dtype.kind == "S":
        return [_quoted(value, label) for value in array.tolist()]
    return [_quoted(str(value).encode(), label) for value in array.tolist()]


def check_label(label: str) -> None:
    """Raise InputError unless ``label`` can stand as a column name in a STAR file."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.\-]*", label):
        raise InputError(f"'{label}' cannot be a column name: letters, digits, _ . - without a leading _ are expected")


def decoded(values: BytesArray) -> npt.NDArray[np.str_]:
    """Return (N,) strings from (N,) UTF-8 bytes."""
    if values.size and values.view(np.uint8).max() > 127:
        return np.char.decode(values, "utf-8")
    return values.astype(np.str_)


def _quoted(value: bytes, label: str) -> bytes:
    if value and not re.search(rb"\s", value) and value[:1] not in b"#'\"":
        return value
    if b"\n" in value or (b'"' in value and b"'" in value):
        raise InputError(f"_{label}: the text {value.decode(errors='replace')!r} cannot be written to a STAR file")
    return b"'" + value + b"'" if b'"' in value else b'"' + value + b'"'


def _is_number(value: bytes) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return b"_" not in value


def _single_row(rows: RowText, row: int) -> RowText:
    one = slice(row, row + 1)
    return RowText(
        rows.text, rows.start[one], rows.stop[one], rows.token_start[one], rows.token_length[one], rows.quoted
    )

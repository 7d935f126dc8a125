"""Fields of a .cs that RELION has no column for, taken through a STAR file in columns of our own.

RELION from 3.1 on keeps columns that it does not know. The field ``alignments3D/error`` of type f4 becomes
``cdxCs.alignments3D.error.f4``; a field with several values a row becomes one column each, whose last part counts them:
``cdxCs.ctf.tetra_A.f4x4.0`` to ``.3``. So type and shape come back as they were.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cs import AnyArray, CsTable
from cryodrgn_ext.metadata.star_table import StarTable, Values

PREFIX = "cdxCs."
_FIELD = re.compile(r"\w+/\w+")
_LABEL = re.compile(r"cdxCs\.(\w+)\.(\w+)\.(S|[fiu][1248])((?:x\d+)*)(?:\.(\d+))?")
_MOST_VALUES = 256


def columns_of_fields(
    table: CsTable, fields: Iterable[str], rows: npt.NDArray[np.integer[Any]]
) -> tuple[dict[str, Values], tuple[str, ...]]:
    """Return STAR columns that hold fields, and which of the fields no column can hold.

    Parameters
    ----------
    table : CsTable
    fields : iterable of str
    rows : (n,) int array
        Which rows, in which order.

    Returns
    -------
    dict of str to (n,) values
    tuple of str
        Fields with names that no label can spell, of unusual types, with more than 256 values a row or values that are
        not finite.
    """
    columns: dict[str, Values] = {}
    lost = []
    for field in fields:
        values = table.columns[field][rows]
        kind = "S" if values.dtype.kind == "S" else values.dtype.str[1:]
        shape = values.shape[1:]
        stem = f"{PREFIX}{field.replace('/', '.')}.{kind}{''.join(f'x{size}' for size in shape)}"
        count = math.prod(shape)
        if not _FIELD.fullmatch(field) or not _LABEL.fullmatch(stem) or count > _MOST_VALUES or not _writable(values):
            lost.append(field)
            continue
        flat = values.reshape(len(rows), count)
        for i in range(count):
            columns[f"{stem}.{i}" if shape else stem] = _text(flat[:, i])
    return columns, tuple(lost)


def fields_of_columns(table: StarTable, rows: npt.NDArray[np.integer[Any]]) -> dict[str, AnyArray]:
    """Return the fields (n, ...) that :func:`columns_of_fields` put into a STAR table.

    Raises
    ------
    InputError
        When some of the columns of a field are missing or hold other values.
    """
    parts: dict[tuple[str, str, tuple[int, ...]], dict[int, str]] = {}
    for label in table.columns:
        match = _LABEL.fullmatch(label)
        if match:
            shape = tuple(int(size) for size in match[4].split("x")[1:])
            parts.setdefault((f"{match[1]}/{match[2]}", match[3], shape), {})[int(match[5] or 0)] = label
    fields: dict[str, AnyArray] = {}
    for (field, kind, shape), labels in parts.items():
        count = math.prod(shape)
        if sorted(labels) != list(range(count)):
            raise InputError(f"{table.path}: of the {count} columns of {field} only {len(labels)} are there")
        values = [_parsed(table, labels[i], kind)[rows] for i in range(count)]
        fields[field] = np.stack(values, axis=1).reshape(len(rows), *shape) if shape else values[0]
    return fields


def _writable(values: AnyArray) -> bool:
    if values.dtype.kind == "f":
        return bool(np.isfinite(values).all())
    return values.dtype.kind in "iu" or not any(b"\n" in text for text in np.unique(values).tolist())


def _text(values: AnyArray) -> Values:
    if values.dtype.kind != "f":
        return values
    # As many digits as tell neighbouring numbers of the type apart; most columns hold few distinct numbers.
    template = b"%.9g" if values.dtype.itemsize <= 4 else b"%.17g"
    distinct, inverse = np.unique(values, return_inverse=True)
    return np.array([template % value for value in distinct.tolist()])[inverse]


def _parsed(table: StarTable, label: str, kind: str) -> AnyArray:
    if kind == "S":
        return table.raw(label)
    text = table.raw(label)
    try:
        if kind[0] == "f":
            return text.astype(np.float64).astype(kind)
        # Not by way of float64, which has no room for identifiers of 64 bits.
        distinct, inverse = np.unique(text, return_inverse=True)
        return np.array([int(value) for value in distinct.tolist()], dtype=kind)[inverse]
    except (ValueError, OverflowError):
        raise InputError(f"{table.path}: the column _{label} holds other values than a conversion wrote") from None

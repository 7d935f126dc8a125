"""Image references of the form ``000012@Extract/job012/stack.mrcs``: parsed for all rows at once, and made unique."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.image_files import plain_name
from cryodrgn_ext.metadata.star_rows import BytesArray
from cryodrgn_ext.metadata.star_table import StarTable, decoded

UInt64Array: TypeAlias = npt.NDArray[np.uint64]

_AT = ord("@")
_EXPECTED = "index@stack is expected, 1@ where a file is a single image"
_MAX_DIGITS = 15
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, eq=False)
class ImageReferences:
    """Where the images of N rows are.

    Attributes
    ----------
    stack_names : tuple of str
        The stacks as written, in order of their first row.
    stack_id : (N,) int32
        Index into ``stack_names``.
    stack_index : (N,) int64
        0-based index in the stack.
    """

    stack_names: tuple[str, ...]
    stack_id: npt.NDArray[np.int32]
    stack_index: npt.NDArray[np.int64]


def parse_image_names(table: StarTable, column: str = "rlnImageName") -> ImageReferences:
    """Split the image references of a table into stacks and indices.

    Raises
    ------
    InputError
        For a name without ``@``, without a stack, or whose index is not a whole number of at least 1.
    """
    known: dict[bytes, int] = {}
    stack_id = np.empty(table.n_rows, np.int32)
    stack_index = np.empty(table.n_rows, np.int64)
    for begin, names in table.rows.column_chunks(table.column_position(column)):
        part = slice(begin, begin + len(names))
        letters = names.view(np.uint8).reshape(len(names), -1)
        at = np.argmax(letters == _AT, axis=1)
        missing = letters[np.arange(len(at)), at] != _AT
        _refuse(table, begin, names, missing, column, f"has no '@': {_EXPECTED}")
        number, valid = _leading_numbers(letters, at)
        _refuse(table, begin, names, ~valid, column, "has no whole number in front of the '@'")
        _refuse(table, begin, names, number == 0, column, "has the index 0, but RELION counts images from 1")
        stacks, inverse = _unique_stacks(letters, at)
        _refuse(table, begin, names, stacks[inverse] == b"", column, "names no stack behind the '@'")
        ids = np.array([known.setdefault(stack, len(known)) for stack in stacks.tolist()], np.int32)
        stack_id[part] = ids[inverse]
        stack_index[part] = number - 1
    return ImageReferences(tuple(stack.decode() for stack in known), stack_id, stack_index)


def _refuse(
    table: StarTable, begin: int, names: BytesArray, wrong: npt.NDArray[np.bool_], column: str, complaint: str
) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        shown = decoded(names[row : row + 1])[0]
        raise InputError(f"{table.describe_row(begin + row)}: _{column} '{shown}' {complaint}")


def _leading_numbers(
    letters: npt.NDArray[np.uint8], at: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the decimal numbers in front of position ``at`` of every row, and whether they are numbers."""
    valid = (at > 0) & (at <= _MAX_DIGITS)
    number = np.zeros(len(at), np.int64)
    for place in range(min(int(at.max()), _MAX_DIGITS)):
        digit = letters[:, place].astype(np.int64) - ord("0")
        inside = place < at
        valid &= ~inside | ((digit >= 0) & (digit <= 9))
        number = np.where(inside, 10 * number + digit, number)
    return number, valid


def _unique_stacks(letters: npt.NDArray[np.uint8], at: npt.NDArray[np.intp]) -> tuple[BytesArray, npt.NDArray[np.intp]]:
    """Return the distinct texts behind ``at`` in order of appearance, and for every row which one it has."""
    width = letters.shape[1] - int(at.min()) - 1
    words = width // 8 + 1
    where = at[:, None] + 1 + np.arange(8 * words)
    text = np.where(where < letters.shape[1], np.take_along_axis(
        letters, np.minimum(where, letters.shape[1] - 1), axis=1), 0).astype(np.uint8)  # fmt: skip
    # Sorting 64-bit hashes is ten times faster than sorting paths; the comparison below makes it exact.
    with np.errstate(over="ignore"):
        factor = mixed(np.arange(1, words + 1, dtype=np.uint64)) | np.uint64(1)
        code = mixed((text.view(np.uint64) * factor).sum(axis=1, dtype=np.uint64))
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    names = text.view(f"S{8 * words}")[:, 0]
    if not np.array_equal(text[first][inverse], text):
        _, first, inverse = np.unique(names, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return names[np.sort(first)], rank[inverse]


def mixed(numbers: npt.NDArray[Any]) -> UInt64Array:
    """Return 64-bit hashes of 64-bit integers (the finaliser of splitmix64: a bijection without fixed pattern)."""
    with np.errstate(over="ignore"):
        x = numbers.astype(np.uint64) + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def stack_file(name: str) -> str:
    """Return the file that a stack's name means.

    CryoSPARC may put a ``>`` in front; RELION takes ``a.mrc:mrcs`` for a stack of images that is called ``a.mrc``.
    """
    return name.removeprefix(">").removesuffix(":mrcs")


def image_hashes(references: ImageReferences) -> UInt64Array:
    """Return (N,) hashes of the images: equal for rows of one image, the same in every file that names it alike.

    The stack's name counts as written but for redundant separators (``./a//b.mrcs`` is ``a/b.mrcs``) and what only
    one suite writes (:func:`stack_file`).
    """
    stacks = [
        int.from_bytes(blake2b(plain_name(stack_file(name)).encode(), digest_size=8).digest(), "little")
        for name in references.stack_names
    ]
    return mixed(np.array(stacks, np.uint64)[references.stack_id] ^ mixed(references.stack_index))


def unique_ids(image_hash: UInt64Array) -> UInt64Array:
    """Return (N,) identifiers made from (image, how many earlier rows have the same image).

    Rows of a symmetry-expanded set repeat images on purpose: the occurrence keeps them apart in this file. In another
    file, where copies may be missing, it does not tell which copy a row is:
    :func:`cryodrgn_ext.metadata.row_matching.match_rows`.
    """
    with np.errstate(over="ignore"):
        return mixed(image_hash + occurrences(image_hash) * _GOLDEN)


def occurrences(keys: UInt64Array) -> UInt64Array:
    """Return (N,) how many earlier rows have the same key."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    new = np.ones(len(order), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    run_start = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    occurrence = np.empty(len(order), np.uint64)
    occurrence[order] = np.arange(len(order)) - run_start
    return occurrence


def content_hashes(values: npt.NDArray[Any]) -> UInt64Array:
    """Return (N,) hashes of the bytes of every row of an array (N, ...); trailing zero bytes do not count."""
    n = len(values)
    letters = np.ascontiguousarray(values).reshape(n, -1).view(np.uint8).reshape(n, -1)
    words = letters.shape[1] // 8 + 1
    padded = np.zeros((n, 8 * words), np.uint8)
    padded[:, : letters.shape[1]] = letters
    with np.errstate(over="ignore"):
        factor = mixed(np.arange(1, words + 1, dtype=np.uint64)) | np.uint64(1)
        return mixed((padded.view(np.uint64) * factor).sum(axis=1, dtype=np.uint64))

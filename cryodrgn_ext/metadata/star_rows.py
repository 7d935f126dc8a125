"""The rows of one STAR table, kept as the bytes of the file with an index of where every value stands.

Values are never converted and written back: a row that is written again is a slice of the text that was read, so
numbers keep the digits they had. Only the columns that somebody asks for become arrays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

IntArray: TypeAlias = npt.NDArray[np.integer[Any]]
BytesArray: TypeAlias = npt.NDArray[np.bytes_]

# Bounds the temporary arrays of the tokeniser (about ten bytes per byte of text) and of the column readers.
_CHUNK_BYTES = 8 * 1024 * 1024
_CHUNK_ROWS = 65536
_BLANK = 32  # every byte up to the space separates values, as in RELION (tabs, carriage returns)
_HASH, _SINGLE, _DOUBLE = ord("#"), ord("'"), ord('"')
# A quote opens only at the start of a value and closes only before a blank: John's_data is an ordinary value.
_QUOTED = re.compile(rb"(?<![^ \t\r\n])([\"'])[^\n]*?\1(?=[ \t\r\n])")

RowFault: TypeAlias = Callable[[int, int, str], Exception]


@dataclass(frozen=True, eq=False, repr=False)  # the text may be hundreds of megabytes
class RowText:
    """Where the values of N rows with C columns stand in the text of a file.

    Attributes
    ----------
    text : bytes
        The whole file; it ends in a newline.
    start, stop : (N,) int64
        First byte of every row's line, and the byte after its newline.
    token_start, token_length : (N, C) uint16 or uint32
        First byte of every value relative to ``start``, and its length, quotes included.
    quoted : bool
        Whether any value may be quoted.
    """

    text: bytes
    start: npt.NDArray[np.int64]
    stop: npt.NDArray[np.int64]
    token_start: npt.NDArray[np.unsignedinteger[Any]]
    token_length: npt.NDArray[np.unsignedinteger[Any]]
    quoted: bool

    @property
    def n_rows(self) -> int:
        """Number N of rows."""
        return len(self.start)

    def column_chunks(self, column: int) -> Iterator[tuple[int, BytesArray]]:
        """Yield (first row, values) of one column, some ten thousand rows at a time, quotes taken off.

        Parameters
        ----------
        column : int
            Position of the column.

        Yields
        ------
        int, (n,) bytes array
        """
        view = np.frombuffer(self.text, np.uint8)
        for begin in range(0, self.n_rows, _CHUNK_ROWS):
            rows = slice(begin, begin + _CHUNK_ROWS)
            start = self.start[rows] + self.token_start[rows, column]
            length = self.token_length[rows, column].astype(np.int64)
            if self.quoted:
                first = view[start]
                last = view[start + np.maximum(length, 1) - 1]
                inside = (length >= 2) & (first == last) & ((first == _SINGLE) | (first == _DOUBLE))
                start, length = start + inside, length - 2 * inside
            width = max(int(length.max()), 1)
            offset = np.arange(width)
            where = start[:, None] + offset
            np.minimum(where, len(view) - 1, out=where)
            letters = view[where]
            letters[offset >= length[:, None]] = 0
            yield begin, letters.view(f"S{width}")[:, 0]

    def column(self, column: int) -> BytesArray:
        """Return all values of one column as (N,) bytes, quotes taken off."""
        chunks = [values for _, values in self.column_chunks(column)]
        return np.concatenate(chunks) if chunks else np.empty(0, "S1")

    def written(
        self,
        rows: IntArray | None = None,
        replaced: Mapping[int, Sequence[bytes]] | None = None,
        appended: Sequence[Sequence[bytes]] = (),
    ) -> Iterator[bytes]:
        """Yield the text of rows, in pieces of many rows, with some values replaced and columns appended.

        Parameters
        ----------
        rows : (n,) int array, optional
            Which rows, in which order; all when omitted.
        replaced : mapping of int to sequence of bytes, optional
            New values (n of them) by position of the column.
        appended : sequence of sequences of bytes
            Values (n each) of columns that come after the last one, in front of any trailing blank or comment.
        """
        chosen = np.arange(self.n_rows) if rows is None else np.asarray(rows, np.int64)
        replaced = replaced or {}
        for begin in range(0, len(chosen), _CHUNK_ROWS):
            span = slice(begin, begin + _CHUNK_ROWS)
            part = chosen[span]
            start, stop = self.start[part], self.stop[part]
            if not replaced and not appended:
                yield b"".join(self._slices(start, stop))
                continue
            pieces: list[Sequence[bytes]] = []
            cut = start
            for column in sorted(replaced):
                value = start + self.token_start[part, column]
                pieces += [self._slices(cut, value), replaced[column][span]]
                cut = value + self.token_length[part, column]
            end = start + self.token_start[part, -1] + self.token_length[part, -1]
            pieces.append(self._slices(cut, end))
            for values in appended:
                pieces.append([b" " + value for value in values[span]])
            pieces.append(self._slices(end, stop))
            yield b"".join(chain.from_iterable(zip(*pieces, strict=True)))

    def _slices(self, start: IntArray, stop: IntArray) -> list[bytes]:
        text = self.text
        return [text[a:b] for a, b in zip(start.tolist(), stop.tolist(), strict=True)]


def index_rows(text: bytes, begin: int, end: int, n_columns: int, fault: RowFault) -> RowText:
    r"""Find the values of every row in ``text[begin:end]``.

    Values are separated by blanks; a value that starts with a quote ends at the same quote before a blank; a ``#``
    at the start of a value makes the rest of the line a comment. These are the rules of RELION's reader.

    Parameters
    ----------
    text : bytes
        The whole file, ending in a newline.
    begin, end : int
        The part of it after the labels, up to the next block.
    n_columns : int
        Number of labels.
    fault : callable (row, byte, complaint) -> Exception
        Makes the exception that is raised for the 0-based ``row`` that starts at ``byte``.

    Raises
    ------
    Exception
        What ``fault`` returns, for a row with more or fewer values than labels, or behind an empty line.
    """
    has_quotes = text.find(b'"', begin, end) >= 0 or text.find(b"'", begin, end) >= 0
    view = np.frombuffer(_without_quoted_blanks(text, begin, end) if has_quotes else text, np.uint8)
    shift = begin if has_quotes else 0  # the unquoted copy starts at begin
    starts: list[npt.NDArray[np.int64]] = []
    stops: list[npt.NDArray[np.int64]] = []
    token_starts: list[npt.NDArray[np.unsignedinteger[Any]]] = []
    token_lengths: list[npt.NDArray[np.unsignedinteger[Any]]] = []
    n_rows = 0
    empty_line_seen = False
    at = begin
    while at < end:
        upto = _line_end(text, at, end)
        chunk = view[at - shift : upto - shift]
        lines = _Lines(chunk, n_columns)
        row_lines = np.flatnonzero(lines.count > 0)
        wrong = np.flatnonzero(lines.count[row_lines] != n_columns)
        if len(wrong):
            line = row_lines[wrong[0]]
            found = int(lines.count[line])
            raise fault(
                n_rows + int(wrong[0]),
                at + int(lines.start[line]),
                f"has {found} value{'s' * (found != 1)}, but the table has {n_columns} columns",
            )
        if len(row_lines):
            empty = 0 if empty_line_seen else int(lines.empty[0]) if len(lines.empty) else len(lines.count)
            late = int(np.searchsorted(row_lines, empty))
            if late < len(row_lines):
                raise fault(
                    n_rows + late,
                    at + int(lines.start[row_lines[late]]),
                    "comes after an empty line, where RELION stops reading the table; remove the empty line",
                )
            token = lines.first_token[row_lines][:, None] + np.arange(n_columns)
            if lines.padded is not None:  # second of two columns left empty
                token = np.minimum(token, len(lines.token_start) - 1)
            line_start = lines.start[row_lines]
            token_start = lines.token_start[token] - line_start[:, None]
            token_length = lines.token_stop[token] - lines.token_start[token]
            if lines.padded is not None:
                short = lines.padded[row_lines]
                token_start[short, 1] = token_start[short, 0] + token_length[short, 0]
                token_length[short, 1] = 0
            narrow = np.uint16 if int(token_start[:, -1].max()) + int(token_length.max()) < 65536 else np.uint32
            starts.append(at + line_start)
            stops.append(at + lines.stop[row_lines])
            token_starts.append(token_start.astype(narrow))
            token_lengths.append(token_length.astype(narrow))
            n_rows += len(row_lines)
        empty_line_seen = empty_line_seen or len(lines.empty) > 0
        at = upto
    nothing = np.empty((0, n_columns), np.uint16)
    return RowText(
        text=text,
        start=np.concatenate([np.empty(0, np.int64), *starts]),
        stop=np.concatenate([np.empty(0, np.int64), *stops]),
        token_start=np.concatenate([nothing, *token_starts]),
        token_length=np.concatenate([nothing, *token_lengths]),
        quoted=has_quotes,
    )


class _Lines:
    """Tokens and lines of a chunk of text that ends in a newline; all positions relative to the chunk."""

    def __init__(self, chunk: npt.NDArray[np.uint8], n_columns: int) -> None:
        solid = chunk > _BLANK
        before = np.empty_like(solid)
        before[0] = False
        before[1:] = solid[:-1]
        self.token_start = np.flatnonzero(solid & ~before)
        self.token_stop = np.flatnonzero(~solid & before)
        self.stop = np.flatnonzero(chunk == ord("\n")) + 1
        self.start = np.concatenate([[0], self.stop[:-1]])
        self.first_token = np.searchsorted(self.token_start, self.start)
        self.count = np.diff(self.first_token, append=len(self.token_start))
        self.empty = np.flatnonzero(self.count == 0)
        comment = np.flatnonzero(chunk[self.token_start] == _HASH)
        if len(comment):
            line, first = np.unique(np.searchsorted(self.first_token, comment, "right") - 1, return_index=True)
            self.count[line] = comment[first] - self.first_token[line]
        # RELION writes an empty value of a two-column table (its job options) as nothing at all.
        self.padded = (self.count == 1) if n_columns == 2 and np.any(self.count == 1) else None
        if self.padded is not None:
            self.count[self.padded] = 2


def _line_end(text: bytes, at: int, end: int) -> int:
    """Return the end of the last whole line within a chunk's length from ``at``, at least one line."""
    if end - at <= _CHUNK_BYTES:
        return end
    newline = text.rfind(b"\n", at, at + _CHUNK_BYTES)
    if newline < 0:
        newline = text.find(b"\n", at + _CHUNK_BYTES, end)
    return newline + 1 if newline >= 0 else end


def _without_quoted_blanks(text: bytes, begin: int, end: int) -> bytearray:
    """Copy ``text[begin:end]`` with the blanks inside quoted values filled, so that they no longer separate."""
    copy = bytearray(text[begin:end])
    for match in _QUOTED.finditer(text, begin, end):
        if b" " in match[0] or b"\t" in match[0]:
            copy[match.start() - begin : match.end() - begin] = b"x" * len(match[0])
    return copy

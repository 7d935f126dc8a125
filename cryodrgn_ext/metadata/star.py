"""STAR files of RELION 3.0, 3.1, 4 and 5: read and written without changing a character that was not asked for.

Why the text is not handed to the ``starfile`` package: it cannot keep it. ``starfile.read`` (0.5) turns every column
to numbers first, so digits go (``parse_as_string`` needs the names of all columns beforehand); makes ``nan`` of text a
missing value; turns ``'`` into ``"`` everywhere and cuts values at ``#``, also inside paths; fills rows that are too
short with NaN instead of refusing them; fails on list blocks whose values are empty or hold spaces or an apostrophe;
and drops the comments, the ``# version`` among them from which RELION's version is told. ``starfile.write`` writes its
own header and pads numbers. So the bytes are kept here, and ``starfile`` serves as the independent reader that the
tests hold against this one.

Blocks are found by name, never by order. See the STAR reader of RELION (``MetaDataTable::readStar``) for the rules.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cryodrgn_ext.durable_files import atomic_path
from cryodrgn_ext.errors import InputError, looked_in
from cryodrgn_ext.metadata.mrc import compression, undoing
from cryodrgn_ext.metadata.star_rows import IntArray, RowText, index_rows
from cryodrgn_ext.metadata.star_table import StarTable, Values, check_label, format_values

_BOM = b"\xef\xbb\xbf"
_VERSION = re.compile(rb"^#\s*version\s+(\d+)\s*$", re.MULTILINE)
_ROWS_AT_A_TIME = 1 << 14
_TOKEN = re.compile(rb"\"[^\n]*?\"(?=\s|$)|'[^\n]*?'(?=\s|$)|\S+")


@dataclass(frozen=True, eq=False)
class StarFile:
    """A STAR file: its blocks by name, and all text between them.

    Attributes
    ----------
    path : Path
    preamble : bytes
        The text in front of the first block.
    blocks : dict of str to StarTable
        By name, in the order of the file.
    """

    path: Path
    preamble: bytes
    blocks: dict[str, StarTable]

    @property
    def version(self) -> str:
        """Which RELION's conventions the file follows: "3.0" (no optics table), "3.1" (3.1 and 4), "5.0".

        Told from the presence of ``data_optics`` and the comment ``# version 30001`` or ``# version 50001``.
        """
        if "optics" not in self.blocks:
            return "3.0"
        comments = b"\n".join([self.preamble, *(table.tail for table in self.blocks.values())])
        numbers = [int(number) for number in _VERSION.findall(comments)]
        return "5.0" if numbers and max(numbers) >= 50000 else "3.1"


@dataclass(frozen=True, eq=False)
class TableEdit:
    """Changes to a table as it was read, for writing.

    Attributes
    ----------
    rows : (n,) int array or None
        Rows to write, in order; None for all.
    columns : dict of str to list of bytes
        New values (n of them) by label, already formatted (:func:`format_values`): a label that the table has is
        replaced in its place, others are appended behind the last column.
    dropped : tuple of str
        Labels of columns to leave out; the others keep their text.
    """

    rows: IntArray | None = None
    columns: Mapping[str, Sequence[bytes]] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()


def read_star(path: str | Path) -> StarFile:
    """Read a STAR file of any RELION.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    StarFile
        All values as text; arrays are made from them on demand.

    Raises
    ------
    InputError
        When the file is missing, not readable, not UTF-8 text, or not a STAR file; for a block or a column that
        occurs twice; for a row with more or fewer values than there are columns.
    """
    path = Path(path)
    try:
        with open(path, "rb") as handle:
            # A stack of images given by mistake should not be loaded whole before it is refused.
            beginning = handle.read(4096)
            if (packed := compression(beginning)) is not None:
                raise InputError(f"{path}: is compressed ({packed}): decompress it first ({undoing(beginning)})")
            if b"\0" in beginning:
                raise InputError(f"{path}: is a binary file, but a STAR file (text) is expected")
            handle.seek(0)
            text = handle.read()
    except FileNotFoundError:
        raise InputError(f"{path}: this STAR file does not exist{looked_in(path)}") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a directory, but a STAR file is expected") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_star(text, path)


def parse_star(text: bytes, path: Path) -> StarFile:
    """Parse the text of a STAR file; ``path`` is for messages. See :func:`read_star`."""
    _check_encoding(text, path)
    if not text.endswith(b"\n"):
        text += b"\n"
    heads = list(_block_starts(text))
    if not heads:
        raise InputError(f"{path}: is not a STAR file: no line starts with data_")
    blocks: dict[str, StarTable] = {}
    for (begin, name), (end, _) in zip(heads, [*heads[1:], (len(text), "")], strict=True):
        if name in blocks:
            raise InputError(f"{path}: has two blocks named data_{name}; remove or rename one")
        blocks[name] = _parse_block(text, begin, end, name, path)
    return StarFile(path, text[: heads[0][0]], blocks)


def write_star(path: str | Path, star: StarFile, edits: Mapping[str, TableEdit] | None = None) -> None:
    """Write a STAR file atomically: every character as it was read, but for what ``edits`` change.

    Parameters
    ----------
    path : path-like
        The new file; its directory must exist.
    star : StarFile
    edits : mapping of str to TableEdit, optional
        What to change, by name of the block.

    Raises
    ------
    InputError
        When the file cannot be written.
    """
    path = Path(path)
    try:
        with atomic_path(path) as temporary, open(temporary, "wb") as handle:
            for piece in star_text(star, edits):
                handle.write(piece)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def star_text(star: StarFile, edits: Mapping[str, TableEdit] | None = None) -> Iterator[bytes]:
    """Yield the text that :func:`write_star` writes, in pieces."""
    edits = edits or {}
    yield star.preamble
    for name, table in star.blocks.items():
        edit = edits.get(name)
        if edit is None:
            yield table.head
            yield table.rows.text[slice(*table.body)]
        else:
            if not table.is_loop:
                raise InputError(f"{table.path}: data_{name} is a list, not a loop_ table, and cannot be edited")
            replaced = {table.columns.index(label): v for label, v in edit.columns.items() if label in table}
            appended = {label: values for label, values in edit.columns.items() if label not in table}
            n = table.n_rows if edit.rows is None else len(edit.rows)
            replaced |= {table.columns.index(label): [b""] * n for label in edit.dropped if label in table}
            yield _head_with_labels(table, list(appended), edit.dropped)
            yield from table.rows.written(edit.rows, replaced, list(appended.values()))
        yield table.tail


def new_table(name: str, columns: Mapping[str, Values], *, is_loop: bool = True) -> StarTable:
    """Make a table from values.

    Parameters
    ----------
    name : str
        Name of the block without ``data_``.
    columns : mapping of str to values
        Label (without underscore) to N values; floats are written with six decimals, as RELION does, strings as
        they are (quoted when they hold a blank).
    is_loop : bool
        False writes a list of label-value pairs, for which N must be 1.

    Raises
    ------
    InputError
        For columns of different lengths, bad labels, or values that are not finite.
    """
    lengths = {label: len(values) for label, values in columns.items()}
    if not columns or len(set(lengths.values())) != 1 or (not is_loop and set(lengths.values()) != {1}):
        raise InputError(f"data_{name}: the columns must have equal lengths (1 for a list), got {lengths}")
    for label in columns:
        check_label(label)
    if is_loop:
        labels = "".join(f"_{label} #{number} \n" for number, label in enumerate(columns, 1))
        text = f"data_{name}\n\nloop_ \n{labels}".encode() + b"".join(_written_rows(columns, max(lengths.values())))
    else:
        written = {label: format_values(values, "%.6f", label) for label, values in columns.items()}
        text = f"data_{name}\n\n".encode()
        text += b"".join(b"_%-50s %s\n" % (label.encode(), values[0]) for label, values in written.items())
    return parse_star(text + b" \n", Path(f"<new data_{name}>")).blocks[name]


def _written_rows(columns: Mapping[str, Values], n: int) -> Iterator[bytes]:
    """Yield the text of rows, some ten thousand at a time: values as objects take many times the memory of the text."""
    for label, values in columns.items():
        array = np.asarray(values)
        if array.ndim != 1 or (array.dtype.kind == "f" and not np.isfinite(array).all()):
            format_values(array, "%.6f", label)  # raises, and counts from the first row
    for begin in range(0, n, _ROWS_AT_A_TIME):
        part = slice(begin, begin + _ROWS_AT_A_TIME)
        written = [format_values(values[part], "%.6f", label) for label, values in columns.items()]
        yield b"".join(b" ".join(row) + b" \n" for row in zip(*written, strict=True))


def new_star(tables: Sequence[StarTable], version: int | None = 30001) -> StarFile:
    """Make a file of tables, each under RELION's ``# version`` comment (none when ``version`` is None)."""
    comment = b"" if version is None else b"\n# version %d\n\n" % version
    names = [table.name for table in tables]
    if len(set(names)) != len(names):
        raise InputError(f"a STAR file cannot hold two blocks of one name, got {names}")
    last = len(tables) - 1
    blocks = {}
    for number, table in enumerate(tables):
        tail = b" \n" + (comment or b"\n") if number < last else b" \n"
        blocks[table.name] = StarTable(
            table.name, table.columns, table.is_loop, table.path, table.head, tail, table.body, table.rows
        )
    return StarFile(Path("<new file>"), comment, blocks)


def _check_encoding(text: bytes, path: Path) -> None:
    zero = text.find(b"\0")
    if zero >= 0:
        raise InputError(f"{path}: is a binary file, but a STAR file (text) is expected")
    windows = text.find(b"\r")
    if windows >= 0:  # RELION 3.1 finds no table in such a file, and RELION 5 refuses it
        line = text.count(b"\n", 0, windows) + 1
        raise InputError(f"{path}: line {line} ends as on Windows (CR LF), which RELION misreads; run dos2unix on it")
    if text.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    step = 1 << 24
    for begin in range(0, len(text), step):
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(text[begin : begin + step], begin + step >= len(text))
        except UnicodeDecodeError as error:
            line = text.count(b"\n", 0, begin - pending + error.start) + 1
            raise InputError(f"{path}: line {line} is not UTF-8 text, but a STAR file (text) is expected") from None


def _block_starts(text: bytes) -> Iterator[tuple[int, str]]:
    """Yield (byte, name) of every line that is ``data_`` and a name and nothing else."""
    at = len(_BOM) if text.startswith(_BOM) else 0
    if not text.startswith(b"data_", at):
        at = text.find(b"\ndata_", at) + 1
    while at > 0 or text.startswith(b"data_", at):
        end = text.find(b"\n", at)
        words = text[at:end].split(b"#")[0].split()
        if len(words) == 1:  # a row may well start with a path such as data_1/a.mrcs
            yield at, words[0][5:].decode()
        at = text.find(b"\ndata_", end) + 1
        if at == 0:
            return


def _parse_block(text: bytes, begin: int, end: int, name: str, path: Path) -> StarTable:
    where = f"{path}: data_{name}"
    columns: list[str] = []
    pairs: list[tuple[int, int, int, int]] = []  # start of line, start and length of value, end of line
    is_loop = False
    at = text.find(b"\n", begin) + 1
    label_end = at
    while at < end:
        stop = text.find(b"\n", at) + 1
        line = text[at:stop].strip()
        if line.startswith(b"_"):
            label = line.split(None, 1)[0][1:].decode()
            if label in columns:
                raise InputError(f"{where} has the column _{label} twice; remove one")
            columns.append(label)
            label_end = stop
            if not is_loop:
                tokens = list(_TOKEN.finditer(text, at, stop))
                value = tokens[1].span() if len(tokens) > 1 and not tokens[1][0].startswith(b"#") else None
                first, last = value or (tokens[0].end(), tokens[0].end())
                pairs.append((at, first, last - first, stop))
        elif line.split(b"#", 1)[0].strip() == b"loop_":
            if columns:
                raise InputError(f"{where} mixes a list and a loop_ table; give each its own data_ block")
            is_loop = True
            label_end = stop
        elif line and not line.startswith(b"#"):
            break
        at = stop
    if not is_loop:
        return _list_block(text, begin, end, name, columns, pairs, path, at)
    if not columns:
        raise InputError(f"{where}: loop_ is not followed by column names")

    def fault(row: int, byte: int, complaint: str) -> InputError:
        line_number = text.count(b"\n", 0, byte) + 1
        return InputError(f"{path}: row {row + 1} of data_{name} (line {line_number}) {complaint}")

    rows = index_rows(text, at, end, len(columns), fault)
    body = (at, int(rows.stop[-1])) if rows.n_rows else (label_end, label_end)
    return StarTable(name, tuple(columns), True, path, text[begin : body[0]], text[body[1] : end], body, rows)


def _list_block(
    text: bytes,
    begin: int,
    end: int,
    name: str,
    columns: list[str],
    pairs: list[tuple[int, int, int, int]],
    path: Path,
    stopped_at: int,
) -> StarTable:
    if stopped_at < end:
        line = text.count(b"\n", 0, stopped_at) + 1
        raise InputError(f"{path}: line {line} in data_{name} is neither a label nor part of a loop_ table")
    body = (pairs[0][0], pairs[-1][3]) if pairs else (end, end)
    place = np.array(pairs, np.int64).reshape(-1, 4)
    n_rows = 1 if pairs else 0
    rows = RowText(
        text=text,
        start=np.full(n_rows, body[0]),
        stop=np.full(n_rows, body[1]),
        token_start=(place[:, 1] - body[0]).astype(np.uint32).reshape(n_rows, len(columns)),
        token_length=place[:, 2].astype(np.uint32).reshape(n_rows, len(columns)),
        quoted=True,
    )
    return StarTable(name, tuple(columns), False, path, text[begin : body[0]], text[body[1] : end], body, rows)


def _head_with_labels(table: StarTable, labels: Sequence[str], dropped: Sequence[str] = ()) -> bytes:
    """Return the head with labels added behind the last one, in the style of the file, and others taken out."""
    lines = table.head.splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if line.lstrip().startswith(b"_"))
    style = re.fullmatch(rb"\s*_\S+(\s*#\d+)?(\s*)", lines[last])
    numbered, ending = (style[1] is not None, style[2]) if style else (True, b" \n")
    kept = [label for label in table.columns if label not in dropped]
    added = [
        f"_{label} #{number}".encode() + ending if numbered else f"_{label}".encode() + ending
        for number, label in enumerate(labels, len(kept) + 1)
    ]
    if len(kept) < len(table.columns):
        out = {b"_" + label.encode() for label in dropped}
        labelled = [line for line in lines[: last + 1] if not out & set(line.split()[:1])]
        return _renumbered([*labelled, *added, *lines[last + 1 :]])
    return b"".join([*lines[: last + 1], *added, *lines[last + 1 :]])


def _renumbered(lines: Sequence[bytes]) -> bytes:
    """Join the lines of a head, the labels that carry numbers numbered anew from 1."""
    text, number = [], 0
    for line in lines:
        if line.lstrip().startswith(b"_"):
            number += 1
            line = re.sub(rb"^(\s*_\S+\s*#)\d+", rb"\g<1>%d" % number, line)
        text.append(line)
    return b"".join(text)

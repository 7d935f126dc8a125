r"""The stream form of .cs files (CSDAT), read without trusting its numbers.

Layout, as ``cryosparc.dataset.Dataset.stream`` of cryosparc-tools writes it: the magic ``\x95CSDAT``; a 32-bit length
and that many bytes of JSON {length, dtype, compression, compressed_fields}; for every field (none of an empty dataset)
a 32-bit length and that many bytes, compressed or not; and to the end of the file the texts, each ended by a zero byte.
Text fields hold 64-bit offsets into these.

``Dataset.load`` does not check these lengths and offsets: a truncated file makes it take numbers for Python objects,
and the process dies some time later. So the layout is read and checked here, and cryosparc-tools' own ``Stream``
expands the compressed blocks (LZ4, checked against the size of the block).
"""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.errors import InputError

MAGIC = b"\x95CSDAT"
_MAX_EXPANSION = 256  # of LZ4; larger claims would only make us ask for memory
_DECODERS = ("cryosparc.dataset.core", "cryosparc.core")  # cryosparc-tools 5 and 4


def read_stream(handle: IO[bytes], path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read a stream from its magic on.

    Parameters
    ----------
    handle : binary file
        At its start.
    path : Path
        For messages.

    Returns
    -------
    dict of str to (N, ...) array
        In the order of the file; text as fixed-width bytes.

    Raises
    ------
    InputError
        When the file is truncated or damaged.
    """
    handle.read(len(MAGIC))
    n, dtypes, compressed = _header(handle, path)
    columns = {
        field: _column(_block(handle, path, field), n, dtype, field in compressed, f"{path}: {field}")
        for field, dtype in dtypes.items()
        if n
    }
    texts = handle.read()
    return {
        field: _texts(columns[field], texts, f"{path}: {field}")
        if n and dtype.metadata
        else columns.get(field, np.empty((0, *dtype.shape), "S1" if dtype.metadata else dtype.base))
        for field, dtype in dtypes.items()
    }


def _header(handle: IO[bytes], path: Path) -> tuple[int, dict[str, np.dtype[Any]], frozenset[str]]:
    """Return the number of rows, the types (that of text has metadata), and the names of compressed fields."""
    try:
        header = json.loads(_sized(handle, path, "its header"))
        n = header["length"]
        dtypes = {str(name): _dtype(kind, *shape) for name, kind, *shape in header["dtype"]}
        compressed = frozenset(header["compressed_fields"])
        if not isinstance(n, int) or n < 0 or header["compression"] not in (None, "lz4"):
            raise ValueError("unknown length or compression")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is damaged: its header cannot be read ({error})") from None
    return n, dtypes, compressed


def _dtype(kind: str, shape: Any = ()) -> np.dtype[Any]:
    sizes = tuple(int(size) for size in ([shape] if isinstance(shape, int) else shape))
    if kind.lstrip("|<>=") == "O":
        return np.dtype("<u8", metadata={"text": True})
    base = np.dtype(kind)
    if base.kind not in "fiuc" or any(size < 0 for size in sizes):
        raise ValueError(f"unknown type {kind}")
    return np.dtype((base, sizes))


def _sized(handle: IO[bytes], path: Path, what: str) -> bytes:
    length = handle.read(4)
    size = int.from_bytes(length, "little")
    data = handle.read(size) if len(length) == 4 else b""
    if len(length) < 4 or len(data) < size:
        raise InputError(f"{path}: is truncated: it ends within {what}")
    return data


def _block(handle: IO[bytes], path: Path, field: str) -> bytes:
    return _sized(handle, path, f"the field {field}")


def _column(block: bytes, n: int, dtype: np.dtype[Any], is_compressed: bool, where: str) -> npt.NDArray[Any]:
    size = n * math.prod(dtype.shape) * dtype.base.itemsize
    too_large = size > _MAX_EXPANSION * len(block) if is_compressed else size != len(block)
    if too_large:
        raise InputError(f"{where} is damaged: its {len(block)} bytes cannot be those of {n} rows")
    if not is_compressed:
        return np.frombuffer(block, dtype.base).reshape(n, *dtype.shape).copy()
    column = np.empty((n, *dtype.shape), dtype.base)
    if size:
        try:
            found = len(_decoder().decompress_numpy(block, column))
        except ValueError:
            found = -1
        if found != size:
            raise InputError(f"{where} is damaged: its compressed values cannot be expanded")
    return column


def _decoder() -> Any:
    for name in _DECODERS[:-1]:
        try:
            return importlib.import_module(name).Stream()
        except ModuleNotFoundError:
            continue
    return importlib.import_module(_DECODERS[-1]).Stream()


def _texts(offsets: npt.NDArray[np.uint64], texts: bytes, where: str) -> npt.NDArray[np.bytes_]:
    distinct, inverse = np.unique(offsets, return_inverse=True)
    found = []
    for offset in distinct.tolist():
        end = texts.find(b"\0", offset) if offset < len(texts) else -1
        if end < 0:
            raise InputError(f"{where} is damaged or truncated: its text lies behind the end of the file")
        found.append(texts[offset:end])
    return np.array(found, f"S{max(map(len, found), default=1) or 1}")[inverse]

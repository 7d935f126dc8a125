"""The coefficient store: the whitened Fourier coefficients of every image, on disk, written once.

A directory with

- ``store.json``: what was done to which files (settings, optics, noise, size and time stamp of every stack), the
  key (a hash of all that decides the contents), and whether the store is complete;
- ``images.npz``: stack number, section and optics group of every stored image;
- ``sums.bin``: (U,) uint64, a check sum of the lowest coefficients of each image: equal for images of equal pixels;
- ``statistics.bin``: (U, 6) float32, what was found of each image (:mod:`cryodrgn_ext.images.image_statistics`);
- ``coefficients.bin``: (U, M, 2) float16 or float32, little-endian, one row per image in the order of the files.

Rows follow the order of the stacks, so building appends and reading an extraction's particles in order is
sequential; an image that occurs in several rows of the metadata (symmetry expansion) is stored once. Within a row
coefficients are sorted by |k|: a lower band is a prefix.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex64, Int64, Integer
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.durable_files import claim_room
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.image_table import ImageTable, image_code
from cryodrgn_ext.plain_files import load_arrays, load_json, readable, write_arrays, write_json

FORMAT = 1
HEADER_NAME, IMAGES_NAME, DATA_NAME, SUMS_NAME = "store.json", "images.npz", "coefficients.bin", "sums.bin"
STATISTICS_NAME = "statistics.bin"
FLOAT16_LIMIT = 6.0e4


@dataclass(frozen=True)
class StoreHeader:
    """Contents of ``store.json``.

    Attributes
    ----------
    settings : mapping
        Everything that decides how pixels become coefficients, apart from the optics groups.
    groups : list of dict
        Per optics group, what decides its coefficients (box, pixel size, window, aberrations).
    stacks : list of dict
        Fingerprints, see :meth:`ImageTable.fingerprints`.
    images_sha256 : str
        Hash of the arrays in ``images.npz``.
    n_images, n_coefficients : int
    measured : mapping
        What was learnt from the data and applied: noise sigma per group, window power, data sign.
    complete : bool
    images_done : int
        Rows that are safely on disk.
    """

    settings: Mapping[str, Any]
    groups: list[dict[str, Any]]
    stacks: list[dict[str, Any]]
    images_sha256: str
    n_images: int
    n_coefficients: int
    measured: Mapping[str, Any]
    complete: bool = False
    images_done: int = 0

    @property
    def key(self) -> str:
        """Hash of all that decides the contents."""
        identity = [FORMAT, self.settings, self.groups, self.stacks, self.images_sha256, self.n_images]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @property
    def dtype(self) -> np.dtype[Any]:
        """Number type on disk."""
        return np.dtype("<f2" if self.settings["storage"] == "float16" else "<f4")

    @property
    def row_bytes(self) -> int:
        """Size of one image's coefficients."""
        return self.n_coefficients * 2 * self.dtype.itemsize

    def write(self, directory: Path) -> None:
        """Write ``store.json`` atomically."""
        content = {"format": FORMAT, "key": self.key, **self.__dict__}
        write_json(directory / HEADER_NAME, content)

    @classmethod
    def read(cls, directory: Path) -> StoreHeader | None:
        """Header of the store in ``directory``; None when there is none.

        Raises
        ------
        InputError
            When the file is there but is not a store header of this format.
        """
        path = directory / HEADER_NAME
        if not path.exists():
            return None
        with readable(path, f"delete {directory} to build it anew"):
            content = load_json(path)
        if content.get("format") != FORMAT:
            raise InputError(f"{path} was written by another version of this program: delete {directory}")
        content.pop("format")
        key = content.pop("key", None)
        try:
            header = cls(**content)
        except TypeError:
            raise InputError(f"{path} is damaged: delete {directory} to build it anew") from None
        if header.key != key:
            raise InputError(f"{path} was changed after it was written: delete {directory} to build it anew")
        return header


class StoreWriter:
    """Appends rows to a store; each :meth:`append` is safe on disk when it returns, and a killed build continues.

    Parameters
    ----------
    directory : Path
        Created when missing.
    header : StoreHeader
        With ``images_done`` = 0 for a new store, or as read from an unfinished one.
    table : ImageTable

    Raises
    ------
    InputError
        When the disk has no room for the whole store (checked before any work is done) or cannot be written.
    """

    def __init__(self, directory: Path, header: StoreHeader, table: ImageTable) -> None:
        self.directory = directory
        self.header = header
        total = header.n_images * header.row_bytes
        with _disk_errors(directory, total):
            directory.mkdir(parents=True, exist_ok=True)
            if header.images_done == 0:
                (directory / HEADER_NAME).unlink(missing_ok=True)
                (directory / DATA_NAME).unlink(missing_ok=True)
                (directory / SUMS_NAME).unlink(missing_ok=True)
                (directory / STATISTICS_NAME).unlink(missing_ok=True)
                arrays = {"stack": table.stack, "section": table.section, "group": table.group}
                write_arrays(directory / IMAGES_NAME, arrays)
            self._fd = os.open(directory / DATA_NAME, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                claim_room(self._fd, total)  # a full disk is found before hours of work
                header.write(directory)
            except BaseException:
                os.close(self._fd)
                if header.images_done == 0:
                    (directory / DATA_NAME).unlink(missing_ok=True)
                raise

    def append(self, values: Tensor, statistics: Tensor | None = None, sums: NDArray[np.uint64] | None = None) -> None:
        """Write the next (B, M) complex64 rows, with what is known of their images.

        Parameters
        ----------
        values : Tensor
            (B, M) complex64.
        statistics : Tensor, optional
            (B, S) float32.
        sums : ndarray, optional
            (B,) :func:`check_sums` of the images.

        Raises
        ------
        InputError
            When a value does not fit float16, or the disk is full.
        """
        pairs = torch.view_as_real(values)
        if self.header.dtype.itemsize == 2:
            largest = float(pairs.abs().max())
            if largest > FLOAT16_LIMIT:
                raise InputError(
                    f"a whitened coefficient reaches {largest:.3g}, too large for float16: the images hardly have any "
                    "noise in their background; use float32 storage"
                )
            pairs = pairs.half()
        raw = memoryview(np.ascontiguousarray(pairs.numpy(), dtype=self.header.dtype).tobytes())
        position = self.header.images_done * self.header.row_bytes
        with _disk_errors(self.directory, self.header.n_images * self.header.row_bytes):
            while raw:
                written = os.pwrite(self._fd, raw, position)
                raw, position = raw[written:], position + written
            os.fsync(self._fd)
            if sums is not None:
                self._append_beside(SUMS_NAME, sums.astype("<u8"))
            if statistics is not None:
                self._append_beside(STATISTICS_NAME, statistics.numpy().astype("<f4"))
            done = self.header.images_done + len(values)
            changed = {**self.header.__dict__, "images_done": done, "complete": done == self.header.n_images}
            self.header = StoreHeader(**changed)
            self.header.write(self.directory)

    def _append_beside(self, name: str, values: NDArray[np.generic]) -> None:
        """Write what belongs to rows beside them; nothing where an earlier version began without it."""
        path = self.directory / name
        if self.header.images_done and not path.exists():
            return
        with path.open("r+b" if path.exists() else "wb") as file:
            file.seek(values[:1].nbytes * self.header.images_done)
            file.write(values.tobytes())
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Release the file."""
        os.close(self._fd)


def check_sums(images: Tensor) -> NDArray[np.uint64]:
    """(B,) sums of the two central rows of images (B, D, D) as they are stored, equal where these are bit by bit.

    Of the pixels, not of what was made of them: matrix products round the same image otherwise in another place.
    """
    middle = images.shape[1] // 2
    words = np.ascontiguousarray(images[:, middle - 1 : middle + 1].numpy(), np.float32).view(np.uint32)
    words = words.reshape(len(images), -1).astype(np.uint64)
    factors = np.random.default_rng(0).integers(0, 2**64, words.shape[1], np.uint64) | np.uint64(1)
    sums: NDArray[np.uint64] = (words * factors).sum(axis=1, dtype=np.uint64)
    return sums


def read_check_sums(directory: Path, header: StoreHeader) -> NDArray[np.uint64] | None:
    """(U,) check sums of the images of a store; None where an earlier version wrote none."""
    try:
        sums = np.fromfile(directory / SUMS_NAME, "<u8")
    except OSError:
        return None
    return sums.astype(np.uint64) if len(sums) == header.n_images else None


def read_statistics(directory: Path, header: StoreHeader, columns: int) -> NDArray[np.float32] | None:
    """(U, columns) statistics of the images of a store; None where an earlier version wrote none."""
    try:
        values = np.fromfile(directory / STATISTICS_NAME, "<f4")
    except OSError:
        return None
    return values.reshape(-1, columns).astype(np.float32) if len(values) == header.n_images * columns else None


class _disk_errors:  # noqa: N801 - used as a with-block, reads as a function
    """Turn a full or unwritable disk into one sentence."""

    def __init__(self, directory: Path, size: int) -> None:
        self.directory, self.size = directory, size

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError):
            return
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InputError(
                f"no room for the coefficient store in {self.directory}: it needs {self.size / 1e9:.3g} GB; "
                "free some space, choose another scratch directory, or a smaller working box"
            ) from error
        raise InputError(f"the coefficient store in {self.directory} cannot be written: {error.strerror}") from error


@dataclass(frozen=True)
class StoredCoefficients:
    """A complete store seen through the rows of a particle set: a ``CoefficientSource``.

    Attributes
    ----------
    data : ndarray
        (U, M, 2) read-only memory map.
    row_of_particle : Tensor
        (N,) int64.
    """

    data: NDArray[np.floating]
    row_of_particle: Int64[Tensor, " N"]

    @property
    def n_coefficients(self) -> int:
        """Number of coefficients of each image that are stored."""
        return int(self.data.shape[1])

    def gather(self, rows: Integer[Tensor, " B"], n_coefficients: int) -> Complex64[Tensor, "B M"]:
        """(B, n_coefficients) complex64 of particles ``rows``."""
        stored = self.row_of_particle[rows.cpu()].numpy()
        if len(stored) and stored[-1] - stored[0] == len(stored) - 1 and (np.diff(stored) == 1).all():
            block = self.data[stored[0] : stored[-1] + 1, :n_coefficients].astype(np.float32)
        else:
            block = self.data[stored, :n_coefficients].astype(np.float32)
        return torch.view_as_complex(torch.from_numpy(block))


def open_store(directory: Path, header: StoreHeader, row_of_particle: NDArray[np.int64]) -> StoredCoefficients:
    """Map a complete store.

    Raises
    ------
    InputError
        When the data file is missing or has the wrong size.
    """
    path = directory / DATA_NAME
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): delete {directory} to build it anew") from None
    if size != header.n_images * header.row_bytes:
        raise InputError(
            f"{path} has {size} bytes, expected {header.n_images * header.row_bytes}: "
            f"delete {directory} to build it anew"
        )
    data = np.memmap(path, header.dtype, "r", 0, (header.n_images, header.n_coefficients, 2))
    return StoredCoefficients(data, torch.from_numpy(row_of_particle))


def rows_in_store(
    directory: Path, header: StoreHeader, table: ImageTable, wanted: StoreHeader
) -> NDArray[np.int64] | str:
    """Rows of a complete store for each image of ``table``, or a few words on why the store does not serve.

    A store serves any subset of its images that are preprocessed in the same way and whose stacks are unchanged.
    """
    for name in sorted(set(header.settings) | set(wanted.settings)):
        have, want = header.settings.get(name), wanted.settings.get(name)
        if have != want:
            return f"it was made with {name} = {have}, now {want} is asked for"
    known = {stack["path"]: (number, stack) for number, stack in enumerate(header.stacks)}
    number_of = np.empty(len(wanted.stacks), np.int64)
    for i, stack in enumerate(wanted.stacks):
        if stack["path"] not in known:
            return f"it does not hold the images of {stack['path']}"
        number_of[i], old = known[stack["path"]]
        if old != stack:
            return f"{stack['path']} has changed since"
    try:
        with readable(directory / IMAGES_NAME, "it is built anew"):
            arrays = load_arrays(directory / IMAGES_NAME, "stack", "section", "group")
    except InputError as error:
        return str(error)
    stored_stack, stored_section, stored_group = arrays["stack"], arrays["section"], arrays["group"]
    stored = image_code(stored_stack, stored_section)  # sorted: rows follow stack and section
    code = image_code(number_of[table.stack], table.section)
    row = np.minimum(np.searchsorted(stored, code), len(stored) - 1)
    missing = np.flatnonzero(stored[row] != code)
    if len(missing):
        first = int(missing[0])
        return f"it lacks image {int(table.section[first]) + 1}@{table.stack_paths[int(table.stack[first])]}"
    pairs = np.unique(np.stack([stored_group[row], table.group], axis=1), axis=0)
    for old_group, new_group in pairs.tolist():
        if header.groups[old_group] != wanted.groups[new_group]:
            return f"the optics of group {new_group + 1} have changed since"
    return row

"""The header of an MRC file, checked once and reduced to what reading needs.

Stacks of particles come by the thousand (one per micrograph), so the header is parsed from its 1024 bytes directly;
mrcfile writes our files, and mrcfile and gemmi are the witnesses of this parser in the tests. The format is that of
MRC2014 (Cheng et al., J. Struct. Biol. 192 (2015) 146) with the habits of older programs.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError, looked_in

HEADER_BYTES = 1024
#: MRC2014 modes that hold real pixels, and their numpy types.
PIXEL_TYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
UNSUPPORTED_MODES = {3: "complex int16", 4: "complex float32", 16: "RGB", 101: "4-bit"}
#: First bytes of files that are compressed, and what undoes it.
COMPRESSIONS = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"PK\x03\x04": ("zip", "unzip"),
}
#: First bytes of other formats of images and maps.
OTHER_FORMATS = {
    b"II*\0": "a TIFF file",
    b"MM\0*": "a TIFF file",
    b"II+\0": "a TIFF file",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a numpy file",
    b"\x89PNG": "a PNG picture",
}
NATURAL_AXES = (1, 2, 3)
#: Little-endian and big-endian machine stamps.
STAMPS = {b"\x44\x44": "<", b"\x44\x41": "<", b"\x11\x11": ">"}
# How many bytes, at each of some places, tell whether bytes have a sign where the header does not.
_LOOKED_AT = 1 << 16
IMOD_STAMP, IMOD_SIGNED_BYTES = 1146047817, 1


@dataclass(frozen=True)
class MrcHeader:
    """Contents of the header of an MRC file.

    Attributes
    ----------
    path : Path
    nx, ny, nz : int
        Columns, rows, sections as they are stored.
    dtype : numpy.dtype
        Pixel type with its byte order.
    offset : int
        Bytes before the first pixel (header and extended header).
    voxel_A : tuple of float
        Size of a voxel along x, y and z of space (not as stored); 0 where the header does not say.
    n_complete : int
        How many sections the file is long enough for: less than ``nz`` when it is truncated.
    axes : tuple of int
        MAPC, MAPR, MAPS: the axis of space (1 x, 2 y, 3 z) along which columns, rows and sections run.
    angles_deg : tuple of float
        Angles of the cell; 90 where the header does not say.
    space_group : int
        ISPG: 0 for images, 1 for a map, 401 and more for stacks of maps.
    first_voxel_A : tuple of float
        Where the header puts the first voxel in space (ORIGIN, else NXSTART, NYSTART, NZSTART), along x, y and z.
    """

    path: Path
    nx: int
    ny: int
    nz: int
    dtype: np.dtype[np.generic]
    offset: int
    voxel_A: tuple[float, float, float]
    n_complete: int
    axes: tuple[int, int, int] = NATURAL_AXES
    angles_deg: tuple[float, float, float] = (90.0, 90.0, 90.0)
    space_group: int = 1
    first_voxel_A: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def pixel_size_A(self) -> float:
        """Edge of a pixel along x; 0 when the header does not say."""
        return self.voxel_A[0]

    def check_complete(self) -> None:
        """Raise InputError when the file is truncated."""
        if self.n_complete < self.nz:
            raise InputError(
                f"{self.path} is truncated: its header promises {self.nz} images of {self.nx} x {self.ny} px, the file "
                f"has {self.n_complete} whole images; copy it again"
            )

    def memory_map(self) -> NDArray[np.generic]:
        """(nz, ny, nx) read-only memory map of the pixels as they are stored.

        Raises
        ------
        InputError
            When the file is truncated.
        """
        self.check_complete()
        return np.memmap(self.path, self.dtype, "r", self.offset, (self.nz, self.ny, self.nx))


def read_mrc_header(path: str | os.PathLike[str]) -> MrcHeader:
    """Read and check the header of an MRC file; whether the file is long enough is left to the caller.

    Raises
    ------
    InputError
        When the file cannot be read, is compressed, is not an MRC file, or has a pixel type that we do not read.
    """
    file = Path(path)
    raw, size = read_beginning(file)
    found = compression(raw)
    if found is not None:
        raise InputError(f"{file} is compressed ({found}): decompress it first ({undoing(raw)})")
    return parse_mrc_header(raw, size, file)


def read_stack_header(path: str | os.PathLike[str]) -> MrcHeader:
    """Read and check the header of a stack of images.

    Raises
    ------
    InputError
        See :func:`read_mrc_header`; also when the images are not square, or their rows do not run along x and their
        columns along y.
    """
    header = read_mrc_header(path)
    if header.axes != NATURAL_AXES:
        raise InputError(
            f"{header.path} stores its images with the axes {_listed(header.axes)} (MAPC, MAPR, MAPS), where 1, 2, 3 "
            "is expected: RELION and CryoSPARC ignore that order, so orientations may belong to mirrored images; write "
            "the stack anew (e2proc2d.py, relion_stack_create)"
        )
    if header.nx != header.ny:
        raise InputError(f"{header.path} holds images of {header.nx} x {header.ny} px: they must be square")
    return header


def read_beginning(file: Path) -> tuple[bytes, int]:
    """Return the first 1024 bytes of a file and its size in bytes.

    Raises
    ------
    InputError
        When the file cannot be read.
    """
    try:
        with open(file, "rb") as handle:
            return handle.read(HEADER_BYTES), os.fstat(handle.fileno()).st_size
    except FileNotFoundError:
        raise InputError(
            f"{file} does not exist{looked_in(file)}: check the path, or that the project directory is right"
        ) from None
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}; check that it is a readable MRC file") from None


def compression(raw: bytes) -> str | None:
    """Name the compression of a file by its first bytes; None when there is none."""
    return next((name for magic, (name, _) in COMPRESSIONS.items() if raw.startswith(magic)), None)


def undoing(raw: bytes) -> str:
    """Name the program that undoes the compression of a file with these first bytes."""
    return next(program for magic, (_, program) in COMPRESSIONS.items() if raw.startswith(magic))


def parse_mrc_header(raw: bytes, size: int, file: Path) -> MrcHeader:
    """Parse the first bytes of an MRC file.

    Parameters
    ----------
    raw : bytes
        At least the 1024 bytes of the header.
    size : int
        Bytes of the whole file (decompressed).
    file : Path
        For messages.

    Raises
    ------
    InputError
        When they are not the header of an MRC file, or the pixels have a type that we do not read.
    """
    if len(raw) < HEADER_BYTES:
        raise InputError(f"{file} is not an MRC file: it has {len(raw)} bytes, less than the header of {HEADER_BYTES}")
    order = _byte_order(raw, size)
    if order is None:
        other = next((f"but {name}" for magic, name in OTHER_FORMATS.items() if raw.startswith(magic)), None)
        raise InputError(f"{file} is not an MRC file{f', {other}' if other else ''}: its header holds no sensible "
                         "dimensions; convert it, for instance with relion_image_handler or e2proc3d.py")  # fmt: skip
    nx, ny, nz, mode = _integers(raw, order, 0, 4)
    if mode not in PIXEL_TYPES:
        what = UNSUPPORTED_MODES.get(mode, "unknown")
        raise InputError(
            f"{file} has pixels of MRC mode {mode} ({what}), which is not supported: convert it to float32 (mode 2), "
            "for instance with relion_image_handler"
        )
    axes = _axes(raw, order, file)
    offset = HEADER_BYTES + _integers(raw, order, 92, 1)[0]
    kind = PIXEL_TYPES[mode]
    if mode == 0:
        declared = _declared_unsigned(raw, order)
        kind = "u1" if (_look_unsigned(raw, offset, size, file) if declared is None else declared) else kind
    dtype = np.dtype(order + kind)
    complete = max(0, min(nz, (size - offset) // (nx * ny * dtype.itemsize)))
    voxel = _voxel(raw, order)
    a, b, c = (angle if math.isfinite(angle) and angle > 0 else 90.0 for angle in _floats(raw, order, 52, 3))
    group = _integers(raw, order, 88, 1)[0]
    first = _first_voxel(raw, order, axes, voxel)
    return MrcHeader(file, nx, ny, nz, dtype, offset, voxel, complete, axes, (a, b, c), group, first)


def _integers(raw: bytes, order: str, offset: int, count: int) -> tuple[int, ...]:
    return struct.unpack_from(f"{order}{count}i", raw, offset)


def _floats(raw: bytes, order: str, offset: int, count: int) -> tuple[float, ...]:
    return struct.unpack_from(f"{order}{count}f", raw, offset)


def _listed(axes: tuple[int, ...]) -> str:
    return ", ".join(str(axis) for axis in axes)


def _byte_order(raw: bytes, size: int) -> str | None:
    """Return ``<`` or ``>``; None when the header makes sense in neither order.

    The machine stamp is often wrong in old files, and numbers read in the wrong order are absurd; but not always: 256
    is 65536 in the other order and mode 0 is 0 in both. So the order that explains more of the header is taken.
    """
    best, chosen = -1, None
    for order in "<>":
        nx, ny, nz, mode = _integers(raw, order, 0, 4)
        extended = _integers(raw, order, 92, 1)[0]
        if not (0 <= mode <= 1024 and 0 < nx < 1 << 20 and 0 < ny < 1 << 20 and nz > 0 and extended >= 0):
            continue
        pixel = np.dtype(PIXEL_TYPES.get(mode, "u1")).itemsize
        length = HEADER_BYTES + extended + nx * ny * nz * pixel
        score = 8 * (length == size) + 4 * (length <= size)
        score += 2 * (sorted(_integers(raw, order, 64, 3)) == [1, 2, 3]) + (STAMPS.get(raw[212:214]) == order)
        if score > best:
            best, chosen = score, order
    return chosen


def _axes(raw: bytes, order: str, file: Path) -> tuple[int, int, int]:
    """Return MAPC, MAPR, MAPS; files that leave them 0 mean the natural order."""
    columns, rows, sections = _integers(raw, order, 64, 3)
    if (columns, rows, sections) == (0, 0, 0):
        return NATURAL_AXES
    if sorted((columns, rows, sections)) != [1, 2, 3]:
        raise InputError(
            f"{file} has the axes {_listed((columns, rows, sections))} (MAPC, MAPR, MAPS) in its header, but each of "
            "1, 2 and 3 is expected once: its axes, and so its hand, cannot be known; write the file anew"
        )
    return columns, rows, sections


def _declared_unsigned(raw: bytes, order: str) -> bool | None:
    """Whether the header says that bytes (mode 0) run from 0 to 255: against MRC2014, but as IMOD and others write.

    The extremes in the header prove it either way; else IMOD's flag tells, where its stamp is; None where nothing does.
    """
    low, high = _floats(raw, order, 76, 2)
    if math.isfinite(low) and math.isfinite(high) and low < high:
        if high > 127:
            return low >= 0
        if low < 0:
            return False
    stamp, flags = _integers(raw, order, 152, 2)
    return not flags & IMOD_SIGNED_BYTES if stamp == IMOD_STAMP else None


def _look_unsigned(raw: bytes, offset: int, size: int, file: Path) -> bool:
    """Whether bytes look as if they ran from 0 to 255: pixels scatter about one grey, and not about the break at 128.

    Read with the wrong sign, what scatters about 128 falls apart into both ends of the range, so the reading of the
    smaller variance is right; MRC2014's, with a sign, where the variances are not clearly different (a flat histogram).
    """
    starts = np.unique(np.linspace(offset, max(offset, size - _LOOKED_AT), 16).astype(np.int64)).tolist()
    try:
        if len(raw) >= size:  # decompressed
            pieces = [raw[start : start + _LOOKED_AT] for start in starts]
        else:
            with open(file, "rb") as handle:
                pieces = [(handle.seek(start), handle.read(_LOOKED_AT))[1] for start in starts]
    except OSError:
        return False  # said where the pixels are read
    count = np.bincount(np.frombuffer(b"".join(pieces), np.uint8), minlength=256)
    grey = np.arange(256)
    signed = np.where(grey < 128, grey, grey - 256)
    return _variance(grey, count) < 0.5 * _variance(signed, count)


def _variance(values: NDArray[np.int64], count: NDArray[np.int64]) -> float:
    total = max(1, int(count.sum()))
    mean = float(count @ values) / total
    return float(count @ (values - mean) ** 2) / total


def _voxel(raw: bytes, order: str) -> tuple[float, float, float]:
    """Return the size of a voxel along x, y and z: the cell over its sampling (both in the order of space)."""
    x, y, z = (
        length / count if count > 0 and math.isfinite(length) and length > 0 else 0.0
        for count, length in zip(_integers(raw, order, 28, 3), _floats(raw, order, 40, 3), strict=True)
    )
    return x, y, z


def _first_voxel(
    raw: bytes, order: str, axes: tuple[int, int, int], voxel: tuple[float, float, float]
) -> tuple[float, float, float]:
    origin = _floats(raw, order, 196, 3)
    if any(origin) and all(math.isfinite(value) for value in origin):
        return origin[0], origin[1], origin[2]
    starts = dict(zip(axes, _integers(raw, order, 16, 3), strict=True))  # of columns, rows, sections
    return starts[1] * voxel[0], starts[2] * voxel[1], starts[3] * voxel[2]

"""The header of an MRC file, checked once and reduced to what reading needs.

Stacks of particles come by the thousand (one per micrograph), so the header is parsed from its 1024 bytes directly;
mrcfile writes our files and is the witness of this parser in the tests.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError

HEADER_BYTES = 1024
#: MRC2014 modes that hold real pixels, and their numpy types.
PIXEL_TYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
UNSUPPORTED_MODES = {3: "complex int16", 4: "complex float32", 101: "4-bit"}


@dataclass(frozen=True)
class MrcHeader:
    """What the header of an MRC file says.

    Attributes
    ----------
    path : Path
    nx, ny, nz : int
        Columns, rows, sections.
    dtype : numpy.dtype
        Pixel type with its byte order.
    offset : int
        Bytes before the first pixel (header and extended header).
    pixel_size_A : float
        Along x; 0 when the header does not say.
    """

    path: Path
    nx: int
    ny: int
    nz: int
    dtype: np.dtype[np.generic]
    offset: int
    pixel_size_A: float

    @property
    def section_bytes(self) -> int:
        """Size of one section (image)."""
        return self.nx * self.ny * self.dtype.itemsize

    def memory_map(self) -> NDArray[np.generic]:
        """(nz, ny, nx) read-only memory map of the pixels."""
        return np.memmap(self.path, self.dtype, "r", self.offset, (self.nz, self.ny, self.nx))


def read_mrc_header(path: str | os.PathLike[str]) -> MrcHeader:
    """Read and check the header of an MRC file.

    Raises
    ------
    InputError
        When the file cannot be read, is not an MRC file, has a pixel type that we do not read, or is shorter than
        its header promises.
    """
    file = Path(path)
    try:
        with open(file, "rb") as handle:
            raw = handle.read(HEADER_BYTES)
            size = os.fstat(handle.fileno()).st_size
    except FileNotFoundError:
        raise InputError(f"{file} does not exist: check the path, or that the project directory is right") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): check that it is a readable MRC file") from None
    if len(raw) < HEADER_BYTES:
        raise InputError(f"{file} is not an MRC file: it has {len(raw)} bytes, less than the header of {HEADER_BYTES}")
    order = _byte_order(raw)
    nx, ny, nz, mode = struct.unpack_from(f"{order}4i", raw, 0)
    extended = struct.unpack_from(f"{order}i", raw, 92)[0]
    if min(nx, ny, nz) < 1 or max(nx, ny) > 1 << 20 or not 0 <= extended < 1 << 31:
        raise InputError(f"{file} is not an MRC file: its header says {nx} x {ny} x {nz} pixels of mode {mode}")
    if mode in UNSUPPORTED_MODES:
        raise InputError(
            f"{file} holds {UNSUPPORTED_MODES[mode]} pixels (mode {mode}): convert it to float32 (mode 2), "
            "for instance with relion_image_handler"
        )
    if mode not in PIXEL_TYPES:
        raise InputError(f"{file} is not an MRC file that we can read: unknown pixel mode {mode}")
    dtype = np.dtype(order + PIXEL_TYPES[mode])
    offset = HEADER_BYTES + extended
    needed = offset + nx * ny * nz * dtype.itemsize
    if size < needed:
        whole = max(0, size - offset) // (nx * ny * dtype.itemsize)
        raise InputError(
            f"{file} is truncated: its header promises {nz} images of {nx} x {ny} px ({needed} bytes), "
            f"the file has {size} bytes ({whole} whole images); copy it again"
        )
    intervals = struct.unpack_from(f"{order}i", raw, 28)[0]
    length = struct.unpack_from(f"{order}f", raw, 40)[0]
    pixel_size = length / intervals if intervals > 0 and np.isfinite(length) and length > 0 else 0.0
    return MrcHeader(file, nx, ny, nz, dtype, offset, pixel_size)


def _byte_order(raw: bytes) -> str:
    """Little-endian unless the machine stamp, or failing that the mode, says otherwise."""
    if raw[212] == 0x11:
        return ">"
    if raw[212] == 0x44:
        return "<"
    little = struct.unpack_from("<i", raw, 12)[0]
    return "<" if little in PIXEL_TYPES or little in UNSUPPORTED_MODES else ">"

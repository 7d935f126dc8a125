"""The header of an MRC file, checked once and reduced to what reading needs.

Stacks of particles come by the thousand (one per micrograph), so the header is parsed from its 1024 bytes directly;
mrcfile writes our files and is the witness of this parser in the tests.
"""

from __future__ import annotations

import math
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
    n_complete : int
        How many sections the file is long enough for: less than ``nz`` when it is truncated.
    """

    path: Path
    nx: int
    ny: int
    nz: int
    dtype: np.dtype[np.generic]
    offset: int
    pixel_size_A: float
    n_complete: int

    @property
    def section_bytes(self) -> int:
        """Size of one section (image)."""
        return self.nx * self.ny * self.dtype.itemsize

    def memory_map(self) -> NDArray[np.generic]:
        """(nz, ny, nx) read-only memory map of the pixels.

        Raises
        ------
        InputError
            When the file is truncated.
        """
        if self.n_complete < self.nz:
            raise InputError(
                f"{self.path} is truncated: its header promises {self.nz} images of {self.nx} x {self.ny} px, the file "
                f"has {self.n_complete} whole images; copy it again"
            )
        return np.memmap(self.path, self.dtype, "r", self.offset, (self.nz, self.ny, self.nx))


def read_mrc_header(path: str | os.PathLike[str]) -> MrcHeader:
    """Read and check the header of an MRC file; whether the file is long enough is left to the caller.

    Raises
    ------
    InputError
        When the file cannot be read, is not an MRC file, or has a pixel type that we do not read.
    """
    file = Path(path)
    try:
        with open(file, "rb") as handle:
            raw = handle.read(HEADER_BYTES)
            size = os.fstat(handle.fileno()).st_size
    except FileNotFoundError:
        raise InputError(f"{file} does not exist: check the path, or that the project directory is right") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}; check that it is a readable MRC file") from None
    if len(raw) < HEADER_BYTES:
        raise InputError(f"{file} is not an MRC file: it has {len(raw)} bytes, less than the header of {HEADER_BYTES}")
    for order in "<>":
        nx, ny, nz, mode = struct.unpack_from(f"{order}4i", raw, 0)
        extended = struct.unpack_from(f"{order}i", raw, 92)[0]
        # The machine stamp is often wrong in old files; numbers read in the wrong order are absurd.
        if 0 <= mode <= 1024 and 0 < nx < 1 << 20 and 0 < ny < 1 << 20 and nz > 0 and extended >= 0:
            break
    else:
        raise InputError(f"{file} is not an MRC file: its header holds no sensible dimensions")
    if mode not in PIXEL_TYPES:
        what = UNSUPPORTED_MODES.get(mode, "unknown")
        raise InputError(
            f"{file} has pixels of MRC mode {mode} ({what}), which is not supported: convert it to float32 (mode 2), "
            "for instance with relion_image_handler"
        )
    dtype = np.dtype(order + PIXEL_TYPES[mode])
    offset = HEADER_BYTES + extended
    intervals = struct.unpack_from(f"{order}i", raw, 28)[0]
    length = struct.unpack_from(f"{order}f", raw, 40)[0]
    pixel_size = length / intervals if intervals > 0 and math.isfinite(length) and length > 0 else 0.0
    complete = max(0, min(nz, (size - offset) // (nx * ny * dtype.itemsize)))
    return MrcHeader(file, nx, ny, nz, dtype, offset, pixel_size, complete)

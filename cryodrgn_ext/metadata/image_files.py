"""Where stacks are, and what their headers say: existence, length and size, without reading an image."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.errors import InputError

_HEADER_BYTES = 1024
# Bytes per pixel by MRC2014 mode: int8, int16, float32, uint16, float16.
_PIXEL_BYTES = {0: 1, 1: 2, 2: 4, 6: 2, 12: 2}


@dataclass(frozen=True)
class StackHeader:
    """What the header of an MRC stack says.

    Attributes
    ----------
    width, height, n_images : int
        Pixels in x and y, number of images.
    mode : int
        MRC2014 mode: 0 int8, 1 int16, 2 float32, 6 uint16, 12 float16.
    n_complete : int
        How many images the file is long enough for: less than ``n_images`` when it is truncated.
    """

    width: int
    height: int
    n_images: int
    mode: int
    n_complete: int


def is_missing(path: Path) -> bool:
    """Whether there is no such file; False for one that merely may not be read, which reading then complains about."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def read_stack_header(path: Path) -> StackHeader:
    """Read the 1024 bytes of an MRC header.

    Raises
    ------
    InputError
        When the file is missing, unreadable, or not an MRC stack of a supported mode.
    """
    try:
        with open(path, "rb") as handle:
            header = handle.read(_HEADER_BYTES)
            size = os.fstat(handle.fileno()).st_size
    except FileNotFoundError:
        raise InputError(f"{path}: this image stack does not exist") from None
    except OSError as error:
        raise InputError(f"{path}: this image stack cannot be read: {error.strerror}") from None
    if len(header) < _HEADER_BYTES:
        raise InputError(f"{path}: is no MRC stack: {len(header)} bytes are shorter than the header of 1024")
    for order in "<>":
        width, height, n_images, mode = struct.unpack_from(f"{order}4i", header, 0)
        (extended,) = struct.unpack_from(f"{order}i", header, 92)
        # The machine stamp is often wrong in old files; numbers read in the wrong order are absurd.
        if 0 <= mode <= 1024 and 0 < width < 1 << 20 and 0 < height < 1 << 20 and n_images > 0 and extended >= 0:
            break
    else:
        raise InputError(f"{path}: is no MRC stack: its header holds no sensible dimensions")
    if mode not in _PIXEL_BYTES:
        raise InputError(
            f"{path}: the MRC mode {mode} is not supported; modes 0 (int8), 1 (int16), 2 (float32), 6 (uint16) and "
            "12 (float16) are"
        )
    n_complete = (size - _HEADER_BYTES - extended) // (width * height * _PIXEL_BYTES[mode])
    return StackHeader(width, height, n_images, mode, max(0, min(n_images, n_complete)))


def find_project_directory(star_path: Path, stack_name: str, project_dir: str | Path | None) -> Path:
    """Return the directory to which the image references of a file are relative.

    RELION writes them relative to the project directory, in which it is run. That is ``project_dir`` when given, else
    the working directory, or the nearest directory upward from the STAR file, in which the stack exists; the working
    directory when it exists nowhere.

    Parameters
    ----------
    star_path : Path
    stack_name : str
        The first stack, as written.
    project_dir : path-like, optional

    Raises
    ------
    InputError
        When ``project_dir`` is given and is no directory.
    """
    if project_dir is not None:
        given = Path(project_dir)
        if not os.path.isdir(given):
            raise InputError(f"{given}: is not a directory, but the project directory is expected")
        return given
    working = Path.cwd()
    for directory in _candidates(star_path, working):
        if os.path.isfile(directory / stack_name):  # False for what may not be read
            return directory
    return working


def _candidates(star_path: Path, working: Path) -> Iterator[Path]:
    yield working
    yield from Path(os.path.abspath(star_path)).parents

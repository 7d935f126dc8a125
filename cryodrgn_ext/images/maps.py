"""Volumes in MRC files: read with one-sentence errors, written atomically as MRC2014 volumes."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.durable_files import atomic_path
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.map_origin import Origin
from cryodrgn_ext.metadata.mrc import (
    NATURAL_AXES,
    MrcHeader,
    compression,
    parse_mrc_header,
    read_beginning,
    undoing,
)

DECOMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "bzip2": bz2.decompress,
    "xz": lzma.decompress,
}
#: Relative difference of the edges of a voxel up to which it is a cube: a quarter of a voxel over 128.
CUBE_TOLERANCE = 2e-3
#: First of the space groups that mean a stack of maps (MRC2014).
STACKS_OF_MAPS = 401


@dataclass(frozen=True)
class VolumeMap:
    """A cubic map.

    Attributes
    ----------
    data : ndarray
        (D, D, D) float32, axes z, y, x, origin at voxel D // 2.
    pixel_size_A : float
        Edge of a voxel; 0 when the file does not say.
    notes : tuple of str
        How the file was understood where others may understand it differently, one sentence each.
    """

    data: NDArray[np.float32]
    pixel_size_A: float
    notes: tuple[str, ...] = ()

    @property
    def box_size(self) -> int:
        """Voxels along each edge."""
        return int(self.data.shape[0])


def read_map(path: str | os.PathLike[str]) -> VolumeMap:
    """Read a cubic map, whatever the order of its axes, and also where it is compressed (.gz, .bz2, .xz).

    The position of the map in space (ORIGIN, NXSTART, NYSTART, NZSTART) is not used, as in RELION and CryoSPARC.

    Raises
    ------
    InputError
        When the file is missing, unreadable, not MRC, truncated, not a cube of cubic voxels, or holds values that are
        not finite.
    """
    header, stored = _read_stored(Path(path))
    _check_cube(header)
    # Section, row and column run along the axes MAPS, MAPR, MAPC of (x, y, z): bring them to z, y, x.
    axis_of = {axis: place for place, axis in enumerate(reversed(header.axes))}
    data = np.array(stored.transpose(axis_of[3], axis_of[2], axis_of[1]), dtype=np.float32, order="C")
    if not np.isfinite(data).all():
        bad = int(np.size(data) - np.isfinite(data).sum())
        raise InputError(f"{header.path} holds {bad} voxels that are not finite numbers: write the map again")
    return VolumeMap(data, max(header.voxel_A), _notes(header))


def _read_stored(file: Path) -> tuple[MrcHeader, NDArray[np.generic]]:
    """Return the header and (nz, ny, nx) voxels as they are stored."""
    raw, size = read_beginning(file)
    kind = compression(raw)
    if kind is None:
        header = parse_mrc_header(raw, size, file)
        return header, header.memory_map()
    if kind not in DECOMPRESSIONS:
        raise InputError(f"{file} is compressed ({kind}): decompress it first ({undoing(raw)})")
    try:
        content = DECOMPRESSIONS[kind](file.read_bytes())
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{file} is compressed ({kind}), but damaged ({error}): copy it again") from None
    header = parse_mrc_header(content, len(content), file)
    header.check_complete()
    count = header.nz * header.ny * header.nx
    voxels = np.frombuffer(content, header.dtype, count, header.offset)
    return header, voxels.reshape(header.nz, header.ny, header.nx)


def _check_cube(header: MrcHeader) -> None:
    if not header.nx == header.ny == header.nz:
        size = dict(zip(header.axes, (header.nx, header.ny, header.nz), strict=True))
        raise InputError(
            f"{header.path} is not a cubic map: its size is {size[1]} x {size[2]} x {size[3]} (x, y, z); bring it into "
            "a cubic box, for instance with relion_image_handler --new_box"
        )
    if header.space_group >= STACKS_OF_MAPS:
        raise InputError(f"{header.path} is a stack of maps (space group {header.space_group}): give one map")
    if any(abs(angle - 90.0) > 0.01 for angle in header.angles_deg):
        angles = ", ".join(f"{angle:g}" for angle in header.angles_deg)
        raise InputError(f"{header.path} has a cell with angles of {angles} degrees, but 90 is expected: resample it")
    known = [edge for edge in header.voxel_A if edge > 0]
    if known and max(known) - min(known) > CUBE_TOLERANCE * max(known):
        edges = " x ".join(f"{edge:.4f}" for edge in header.voxel_A)
        raise InputError(
            f"{header.path} has voxels of {edges} Å (x, y, z) by its header, but cubes are expected: correct the "
            "header where it is wrong, or resample the map"
        )


def _notes(header: MrcHeader) -> tuple[str, ...]:
    notes = []
    if header.axes != NATURAL_AXES:
        order = ", ".join(str(axis) for axis in header.axes)
        notes.append(
            f"{header.path} is stored with the axes {order} (MAPC, MAPR, MAPS) and was brought to 1, 2, 3: RELION "
            "ignores that order and would take it for a turned or mirrored map."
        )
    edge = max(header.voxel_A)
    if edge <= 0:
        notes.append(f"{header.path} has no pixel size in its header.")
    # At 0, or with 0 in the middle of the box: the two habits. Elsewhere two maps may be thought to be shifted.
    usual = all(min(abs(at), abs(at + header.nx / 2 * edge)) <= edge for at in header.first_voxel_A)
    if not usual:
        at = ", ".join(f"{value:.1f}" for value in header.first_voxel_A)
        notes.append(
            f"{header.path} begins at ({at}) Å by its header (ORIGIN or NXSTART), which is not used: boxes are laid on "
            "each other voxel by voxel, as RELION and CryoSPARC do."
        )
    return tuple(notes)


def label_map(path: str | os.PathLike[str], origin: Origin) -> None:
    """Say in the header of a map that another program has made for us where it comes from.

    Raises
    ------
    InputError
        When the file cannot be read or written.
    """
    try:
        with mrcfile.open(path, "r+", permissive=True) as file:
            file.add_label(origin.label)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be labelled: {error}") from error


def write_map(
    path: str | os.PathLike[str], data: NDArray[np.floating], pixel_size_A: float, origin: Origin | None
) -> None:
    """Write a map as float32, atomically.

    Parameters
    ----------
    path : path-like
    data : ndarray
        (Z, Y, X).
    pixel_size_A : float
    origin : Origin or None
        What the header says of it; None is for maps that are not ours.

    Raises
    ------
    InputError
        When the directory does not exist, is not writable, or the disk is full.
    """
    if data.ndim != 3:
        raise ValueError(f"a map has three axes, got shape {data.shape}")
    target = Path(path)
    try:
        with atomic_path(target) as temporary, mrcfile.new(temporary, overwrite=True) as file:
            file.set_data(np.ascontiguousarray(data, dtype=np.float32))
            file.set_volume()
            file.voxel_size = pixel_size_A
            if origin is not None:
                file.add_label(origin.label)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}") from error

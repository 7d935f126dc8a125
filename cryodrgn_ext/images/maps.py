"""Volumes in MRC files: read with one-sentence errors, written atomically as MRC2014 volumes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.durable_files import atomic_path
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.mrc import read_mrc_header


@dataclass(frozen=True)
class VolumeMap:
    """A cubic map.

    Attributes
    ----------
    data : ndarray
        (D, D, D) float32, axes z, y, x, origin at voxel D // 2.
    pixel_size_A : float
        Edge of a voxel; 0 when the file does not say.
    """

    data: NDArray[np.float32]
    pixel_size_A: float

    @property
    def box_size(self) -> int:
        """Voxels along each edge."""
        return int(self.data.shape[0])


def read_map(path: str | os.PathLike[str]) -> VolumeMap:
    """Read a cubic map.

    Raises
    ------
    InputError
        When the file is missing, unreadable, not MRC, truncated, not a cube, or holds values that are not finite.
    """
    header = read_mrc_header(path)
    if not header.nx == header.ny == header.nz:
        raise InputError(
            f"{header.path} is not a cubic map: its size is {header.nx} x {header.ny} x {header.nz} (x, y, z)"
        )
    data = np.array(header.memory_map(), dtype=np.float32)
    if not np.isfinite(data).all():
        bad = int(np.size(data) - np.isfinite(data).sum())
        raise InputError(f"{header.path} holds {bad} voxels that are not finite numbers: write the map again")
    return VolumeMap(data, header.pixel_size_A)


def write_map(path: str | os.PathLike[str], data: NDArray[np.floating], pixel_size_A: float) -> None:
    """Write a map (Z, Y, X) as float32, atomically.

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
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}") from error

"""Masks and maps that the user gives a job: read and held against the images before anything is computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.resizing import crop_map
from cryodrgn_ext.images.maps import VolumeMap, read_map
from cryodrgn_ext.images.working_map import check_extent, working_map
from cryodrgn_ext.progress import Monitor


def read_mask(path: Path | None, option: str, box: int, pixel_size_A: float) -> VolumeMap | None:
    """Read a mask for images of ``box`` pixels of ``pixel_size_A``, if one was given.

    Raises
    ------
    InputError
        When the file cannot be read, its box or pixel size is another, or its values are not those of a mask.
    """
    mask = read_refinement_map(path, option, box, pixel_size_A)
    if path is not None and mask is not None:
        check_mask_values(mask, path)
    return mask


def read_refinement_map(path: Path | None, option: str, box: int, pixel_size_A: float) -> VolumeMap | None:
    """Read a map of the refinement of images of ``box`` pixels of ``pixel_size_A``, if one was given.

    Raises
    ------
    InputError
        When the file cannot be read, or its box or pixel size is another.
    """
    if path is None:
        return None
    found = read_map(path)
    if found.box_size != box:
        raise InputError(
            f"{path} has a box of {found.box_size} voxels, but the particles have {box} pixels: give {option} a map "
            "or mask of the refinement of these particles, or leave it out."
        )
    check_extent(found, box * pixel_size_A, option)
    return found


def read_working_mask(path: Path | None, box: int, pixel_size_A: float, monitor: Monitor) -> NDArray[np.float32] | None:
    """Read a mask, if one was given, and bring it to a working box.

    Raises
    ------
    InputError
        When the file cannot be read, it is no mask of the same extent, or no voxel of it is left.
    """
    if path is None:
        return None
    given = read_map(path)
    check_mask_values(given, path)
    for note in given.notes:
        monitor.message(f"Note: {note}")
    found: NDArray[np.float32] = working_map(given, box, pixel_size_A, "--in_mask").numpy()
    if not (found > 0.5).any():
        raise InputError(f"{path} has no voxel above 0.5 in a box of {box}: the region is too small.")
    return found


def check_mask_values(mask: VolumeMap, path: Path) -> None:
    """Raise InputError when the values of a map read from ``path`` are not those of a mask."""
    low, high = float(mask.data.min()), float(mask.data.max())
    if low < -1e-3 or high > 1 + 1e-3 or not np.any(mask.data > 0.5):
        raise InputError(
            f"{path} is not a mask: its values must lie between 0 and 1 and reach 1, but run from "
            f"{low:.4g} to {high:.4g}; make one, for instance with relion_mask_create."
        )
    if _is_inverted(mask.data):
        raise InputError(
            f"{path} is 1 at the edges of the box and 0 in the middle, as if it were inverted: a mask is 1 where the "
            "particle is; give 1 minus it (relion_image_handler --multiply_constant -1, then --add_constant 1)."
        )


def _is_inverted(mask: NDArray[np.float32]) -> bool:
    """Whether a mask leaves out the middle of the box, a ball of half its width, and has all that is around."""
    faces = np.concatenate([np.take(mask, (0, -1), axis=axis).ravel() for axis in range(3)])
    d = mask.shape[0]
    axis = np.arange(d) - d // 2
    middle = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < (d / 4) ** 2
    return bool(faces.min() > 0.5 and mask[middle].mean() < 0.5)


def check_regions(
    mask: VolumeMap | None, mask_path: Path | None, focus: VolumeMap | None, focus_path: Path | None, box: int
) -> None:
    """Hold masks against the working box, and the region of interest against the solvent mask.

    Raises
    ------
    InputError
        When a region has no voxel left at the working box, or lies outside of the solvent mask.
    """
    inside = []
    for given, path in ((mask, mask_path), (focus, focus_path)):
        if given is None:
            continue
        small = crop_map(torch.from_numpy(given.data), box).numpy() > 0.5
        if not small.any():
            raise InputError(
                f"{path} has no voxel above 0.5 in a working box of {box} px: the region is too small; raise --box, or "
                "give a larger region."
            )
        inside.append(small)
    if len(inside) == 2 and not (inside[0] & inside[1]).any():
        raise InputError(
            f"{focus_path} (--focus_mask) lies outside of {mask_path} (--in_mask): they have no voxel in common; give "
            "masks of one map."
        )

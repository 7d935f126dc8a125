"""A map that goes with images as they lie on disk, brought to the box that they are worked on in."""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.resizing import crop_map
from cryodrgn_ext.images.maps import VolumeMap

EXTENT_TOLERANCE = 0.01


def working_map(given: VolumeMap, box: int, pixel_size_A: float, option: str) -> Float32[Tensor, "D D D"]:
    """Fourier-crop a map of the images on disk to the working box.

    Parameters
    ----------
    given : VolumeMap
    box : int
        Working box, in pixels of ``pixel_size_A``.
    pixel_size_A : float
    option : str
        With which the user gave the map, for messages.

    Returns
    -------
    Tensor
        (box, box, box) float32.

    Raises
    ------
    InputError
        When its extent in Å is another than that of the images, or its box is smaller than the working box.
    """
    check_extent(given, box * pixel_size_A, option)
    if given.box_size < box:
        raise InputError(f"the map of {option} has {given.box_size} voxels, fewer than the working box of {box}.")
    return crop_map(torch.from_numpy(given.data), box)


def check_extent(given: VolumeMap, extent_A: float, option: str) -> None:
    """Raise InputError when a map is not as wide as the images; one without a pixel size is taken to be."""
    extent = given.box_size * given.pixel_size_A
    if given.pixel_size_A > 0 and abs(extent - extent_A) > EXTENT_TOLERANCE * extent_A:
        raise InputError(
            f"the map of {option} is {extent:.1f} Å wide ({given.box_size} voxels of {given.pixel_size_A:.4f} Å), but "
            f"the images are {extent_A:.1f} Å wide: give one of the refinement of these particles, or correct the "
            "pixel size in its header."
        )

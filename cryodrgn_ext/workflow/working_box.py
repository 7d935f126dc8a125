"""The box and pixel size of the images on disk, and the box that a job works in."""

from __future__ import annotations

import numpy as np

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.mrc import read_stack_header
from cryodrgn_ext.metadata.particles import ParticleSet


def native_box(particles: ParticleSet) -> int:
    """Return the box of the optics group with most particles, which sets the model's extent (see images.pipeline)."""
    largest = _commonest_group(particles)
    box = particles.optics[largest].box_size
    if box is not None:
        return box
    row = int(np.argmax(particles.optics_index == largest))
    return read_stack_header(particles.stack_paths[int(particles.stack_id[row])]).nx


def native_pixel_A(particles: ParticleSet) -> float:
    """Return the pixel size of the optics group with most particles."""
    return particles.optics[_commonest_group(particles)].pixel_size_A


def _commonest_group(particles: ParticleSet) -> int:
    return int(np.bincount(particles.optics_index, minlength=len(particles.optics)).argmax())


def working_box(given: int | None, native: int, largest_default: int) -> int:
    """Return the box to work in: as given, or that of the images, even and at most ``largest_default``.

    Raises
    ------
    InputError
        When the given one is odd or exceeds the images.
    """
    if given is None:
        return min(native - native % 2, largest_default)
    if given > native:
        raise InputError(f"--box is {given}, but the images have only {native} pixels.")
    if given % 2:
        raise InputError(f"--box must be even, not {given}.")
    return given

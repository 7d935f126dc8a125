"""Pixel sizes in the headers of stacks, held against those of the metadata."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.image_files import is_missing
from cryodrgn_ext.metadata.mrc import read_stack_header
from cryodrgn_ext.metadata.optics import OpticsGroup

#: Relative difference that no calibration of a magnification explains: images were binned, or the file is of others.
_OTHER_IMAGES = 0.1
#: What programs write that know no pixel size.
_UNKNOWN_A = (0.0, 1.0)


def header_notes(
    path: Path,
    optics: Sequence[OpticsGroup],
    optics_index: npt.NDArray[np.int32],
    stack_paths: Sequence[Path],
    stack_id: npt.NDArray[np.int32],
) -> tuple[str, ...]:
    """Say where the header of a stack has another pixel size than the metadata; one stack of every group is asked.

    Parameters
    ----------
    path : Path
        The file, for the sentence.
    optics, optics_index
        Of N particles, see :class:`cryodrgn_ext.metadata.particle_set.ParticleSet`.
    stack_paths, stack_id
        The same; stacks that are not there, or not readable, say nothing here.
    """
    differing = []
    groups, rows = np.unique(optics_index, return_index=True)
    for group, row in zip(groups.tolist(), rows.tolist(), strict=True):
        stack = stack_paths[stack_id[row]]
        header_A = _header_pixel_A(stack)
        if header_A not in _UNKNOWN_A and abs(header_A / optics[group].pixel_size_A - 1) > _OTHER_IMAGES:
            differing.append((stack, header_A, optics[group].pixel_size_A))
    if not differing:
        return ()
    stack, header_A, pixel_A = differing[0]
    others = f" ({len(differing)} of {len(groups)} groups)" if len(differing) > 1 else ""
    return (
        f"{path}: {stack} says pixels of {header_A:.4g} Å, but the metadata {pixel_A:.4g} Å{others}, which are used, "
        "as RELION and CryoSPARC do: check that these are the images that were meant, and not binned ones",
    )


def _header_pixel_A(stack: Path) -> float:
    if is_missing(stack):
        return 0.0
    try:
        return read_stack_header(stack).pixel_size_A
    except InputError:
        return 0.0  # refused where images are needed

"""The user's own images: pixels of the stacks as they lie on disk, read for the few particles that are looked at."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.image_files import is_missing
from cryodrgn_ext.metadata.mrc import read_stack_header
from cryodrgn_ext.metadata.particle_set import ParticleSet

#: Of the grey values, that may be beyond black and white.
CUT = 0.5  # %
INSTEAD = "as the job saw it"


@dataclass(frozen=True)
class OriginalImage:
    """An image of a stack, or why it is not there.

    Attributes
    ----------
    pixels : ndarray or None
        (D, D) float32, axes y, x, values as in the file; None where it cannot be read.
    origin : str
        Where it is from, with its box and range of values; else why it is not shown.
    """

    pixels: NDArray[np.float32] | None
    origin: str

    def plain(self) -> dict[str, Any]:
        """For the page: grey values of 8 bits, a few of which may be beyond black and white."""
        if self.pixels is None:
            return {"origin": self.origin, "box": 0, "data": ""}
        data = base64.b64encode(grey_values(self.pixels[None])[0].tobytes()).decode("ascii")
        return {"origin": self.origin, "box": len(self.pixels), "data": data}


def grey_values(pictures: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Grey values of pictures (..., D, D), each over its own range; pixels that are no numbers are black."""
    flat = np.where(np.isfinite(pictures), pictures, np.nan).reshape(*pictures.shape[:-2], -1)
    with np.errstate(invalid="ignore"):
        filled = np.where(np.isnan(flat).all(axis=-1, keepdims=True), 0, flat)
        low, high = (np.nanpercentile(filled, edge, axis=-1)[..., None] for edge in (CUT, 100 - CUT))
        grey = np.clip((filled - low) / np.maximum(high - low, 1e-30), 0, 1) * 255
    found: NDArray[np.uint8] = np.nan_to_num(grey).round().astype(np.uint8).reshape(pictures.shape)
    return found


def original_images(particles: ParticleSet, rows: NDArray[np.int64]) -> list[OriginalImage]:
    """Read the images of some particles from the stacks, whatever the job has made of them.

    Parameters
    ----------
    particles : ParticleSet
    rows : ndarray
        (n,) int64.
    """
    return [_original(particles, int(row)) for row in rows]


def _original(particles: ParticleSet, row: int) -> OriginalImage:
    stack, section = int(particles.stack_id[row]), int(particles.stack_index[row])
    path, name = particles.stack_paths[stack], f"{section + 1}@{particles.stack_names[stack]}"
    if is_missing(path):
        return OriginalImage(None, f"{name}: stack not there; {INSTEAD}")
    try:
        header = read_stack_header(path)
        box = particles.optics[int(particles.optics_index[row])].box_size
        if box is not None and header.nx != box:
            return OriginalImage(None, f"{name}: stack is another one now, of {header.nx} px, not {box}; {INSTEAD}")
        if section >= header.n_complete:
            return OriginalImage(None, f"{name}: stack ends after image {header.n_complete}; {INSTEAD}")
        pixels = np.array(header.memory_map()[section], np.float32)
    except (InputError, OSError, ValueError):
        return OriginalImage(None, f"{name}: stack cannot be read; {INSTEAD}")
    known = pixels[np.isfinite(pixels)]
    values = f"values {known.min():.4g} to {known.max():.4g}" if len(known) else "no numbers"
    return OriginalImage(pixels, f"{name}: the stack's own pixels, {len(pixels)} px, {values}")

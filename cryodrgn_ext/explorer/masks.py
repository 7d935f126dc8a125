"""Masks of a result: painted in the page as balls, or taken from a file; kept in ``masks/`` with how they were made.

A painted mask is a list of strokes in order, each a ball that is added or taken away, in Å from the centre of the box.
So the file beside the map says it whole, and the map can be made again at any box.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.durable_files import atomic_path, atomic_write_text
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.masks import cosine_edge
from cryodrgn_ext.images.map_origin import masking
from cryodrgn_ext.images.maps import read_map, write_map
from cryodrgn_ext.results.selections import NAME, checked_name
from cryodrgn_ext.workflow.given_maps import check_mask_values

FOLDER = "masks"
MOST_STROKES = 5_000
#: Width of the soft edge; an edge of fewer voxels would ring in Fourier space.
EDGE_PX = 3.0


@dataclass(frozen=True)
class KeptMask:
    """A mask of a result directory.

    Attributes
    ----------
    path : Path
    painted_on : str
        Name of the map on which it was painted; "" for one from a file.
    level : float or None
        Mean of that map within the mask, in its own unit.
    """

    path: Path
    painted_on: str = ""
    level: float | None = None


def mask_path(directory: Path, name: str) -> Path:
    """File of a mask of a result directory.

    Raises
    ------
    InputError
        When the name is none that a file of any system may have.
    """
    return directory / FOLDER / f"{checked_name(name, 'mask')}.mrc"


def painted(strokes: Sequence[Sequence[float]], box: int, pixel_size_A: float) -> NDArray[np.float32]:
    """Draw a mask from strokes.

    Parameters
    ----------
    strokes : sequence
        x, y, z, radius of each ball in Å, from voxel D // 2; one of negative radius takes away.
    box : int
    pixel_size_A : float

    Returns
    -------
    ndarray
        (D, D, D) float32, axes z, y, x: 1 within the balls, a soft edge of ``EDGE_PX`` around them.

    Raises
    ------
    InputError
        When the strokes are none, too many, or no numbers, or leave nothing.
    """
    try:
        balls = np.asarray(strokes, np.float64)
    except (TypeError, ValueError):
        balls = np.empty(0)
    if balls.ndim != 2 or balls.shape[1] != 4 or len(balls) > MOST_STROKES or not np.isfinite(balls).all():
        raise InputError(f"a mask is painted with 1 to {MOST_STROKES} balls of x, y, z and a radius in Å.")
    mask = np.zeros((box, box, box), np.float32)
    for x, y, z, radius in balls / pixel_size_A:
        reach = abs(radius) + EDGE_PX
        spans = [_span(place, reach, box) for place in (z, y, x)]
        around = tuple(slice(low, high) for low, high in spans)
        axes = [np.arange(low, high) - box // 2 - place for (low, high), place in zip(spans, (z, y, x), strict=True)]
        distance = np.sqrt(axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2)
        ball = cosine_edge(distance, abs(radius), EDGE_PX).astype(np.float32)
        part = mask[around]
        mask[around] = np.maximum(part, ball) if radius > 0 else np.minimum(part, 1 - ball)
    if not (mask > 0.5).any():
        raise InputError("nothing is painted within the box of the maps.")
    return mask


def _span(place: float, reach: float, box: int) -> tuple[int, int]:
    """First voxel, and that after the last, within reach of a place counted from the middle of the box."""
    low, high = np.floor(place - reach) + box // 2, np.ceil(place + reach) + box // 2 + 1
    return int(np.clip(low, 0, box)), int(np.clip(high, 0, box))


def keep_painted(
    directory: Path,
    name: str,
    strokes: Sequence[Sequence[float]],
    on: tuple[Path, str] | None,
    grid: tuple[int, float],
) -> KeptMask:
    """Keep a painted mask with its strokes.

    Parameters
    ----------
    directory : Path
        Of the result.
    name : str
    strokes : sequence
        See :func:`painted`.
    on : tuple of Path and str, optional
        File and name of the map on which it was painted.
    grid : tuple of int and float
        Voxels of the box, and their size in Å.

    Raises
    ------
    InputError
        When the name cannot be used or is taken, nothing is painted, or the map has another grid.
    """
    path = mask_path(directory, name)
    mask = painted(strokes, *grid)
    said, level = "", None
    if on is not None:
        shown = read_map(on[0])
        if shown.data.shape != mask.shape:
            raise InputError(f"{on[1]} has {shown.box_size} voxels, but maps of the model {grid[0]}: paint on another.")
        said, level = on[1], float((shown.data * mask).sum(dtype=np.float64) / mask.sum(dtype=np.float64))
    recipe = {"strokes_A": [list(map(float, stroke)) for stroke in strokes], "painted_on": said, "level": level}
    with _free(path) as temporary:
        write_map(temporary, mask, grid[1], masking(f"painted in the explorer of cryodrgn-ext, {len(strokes)} strokes"))
    atomic_write_text(path.with_suffix(".json"), json.dumps(recipe) + "\n")
    return KeptMask(path, said, level)


def keep_file(directory: Path, name: str, data: bytes) -> KeptMask:
    """Keep a mask that the user has as a file, after a look at its values.

    Raises
    ------
    InputError
        When the name cannot be used or is taken, or the file holds no mask.
    """
    path = mask_path(directory, name)
    with _free(path) as temporary:
        temporary.write_bytes(data)
        try:
            check_mask_values(read_map(temporary), Path(f"{name}.mrc"))
        except InputError as error:
            raise InputError(str(error).replace(str(temporary), f"{name}.mrc")) from None
    return KeptMask(path)


def kept_masks(directory: Path) -> list[KeptMask]:
    """Masks of a result directory, in the order of the alphabet."""
    found = sorted(path for path in (directory / FOLDER).glob("*.mrc") if NAME.fullmatch(path.stem))
    return [_with_recipe(path) for path in found]


def _with_recipe(path: Path) -> KeptMask:
    """A mask that is there, with what the file beside it says; of a damaged one nothing is known."""
    try:
        recipe = json.loads(path.with_suffix(".json").read_text())
        level = recipe["level"]
        return KeptMask(path, str(recipe["painted_on"]), None if level is None else float(level))
    except (OSError, ValueError, TypeError, KeyError):
        return KeptMask(path)


@contextlib.contextmanager
def _free(path: Path) -> Iterator[Path]:
    """Yield where to write a mask whose name nobody has, and nobody takes meanwhile.

    Raises
    ------
    InputError
        When there is one.
    """
    path.parent.mkdir(exist_ok=True)
    try:
        with atomic_path(path, new=True) as temporary:
            yield temporary
    except FileExistsError:
        raise InputError(f"there is a mask '{path.stem}' already: give another name.") from None

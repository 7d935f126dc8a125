"""A series of maps as a moving picture: isosurfaces from three sides, there and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cryodrgn_ext.durable_files import atomic_path
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.report.isosurface import common_view_box, surface_views

#: Pictures in a movie, evenly taken from longer series: what takes minutes to draw takes minutes to watch.
MOST_PICTURES = 60
#: A way there takes about this long, each picture between these times.
WAY_MS, SHORTEST_MS, LONGEST_MS = 2400, 60, 400
SIZE_PX = 240
CAPTION_PX = 22
#: Grey of the ground, and the part of the scale of grey that surfaces take.
GROUND, DARKEST, BRIGHTEST = 255, 20, 235


def write_movie(path: Path, maps: Sequence[Path], level: float, caption: str) -> None:
    """Write a GIF of a series of maps.

    Parameters
    ----------
    path : Path
        Appears whole, or not at all.
    maps : sequence of Path
        In order, of one extent.
    level : float
        Contour level of all of them, in units of the maps.
    caption : str
        What they are; the number of the map is added.

    Raises
    ------
    InputError
        When a map cannot be read.
    """
    numbers = np.unique(np.linspace(0, len(maps) - 1, min(len(maps), MOST_PICTURES)).round().astype(int)).tolist()
    view_box = common_view_box((read_map(maps[number]).data for number in numbers), level)
    pictures = [
        _picture(surface_views(read_map(maps[number]).data, level, view_box, SIZE_PX), f"{caption}, {number:03d}")
        for number in numbers
    ]
    each_ms = int(np.clip(WAY_MS / max(1, len(pictures) - 1), SHORTEST_MS, LONGEST_MS))
    first, *others = pictures + pictures[-2:0:-1]
    with atomic_path(path) as temporary:
        first.save(temporary, format="GIF", save_all=True, append_images=others, duration=each_ms, loop=0)


def _picture(views: NDArray[np.float32], caption: str) -> Image.Image:
    """Three views side by side above their caption, in shades of grey."""
    shade = np.where(np.isnan(views), GROUND, DARKEST + (BRIGHTEST - DARKEST) * np.nan_to_num(views))
    row = np.concatenate(list(shade.clip(0, 255).astype(np.uint8)), axis=1)
    page = np.full((row.shape[0] + CAPTION_PX, row.shape[1]), GROUND, np.uint8)
    page[: row.shape[0]] = row
    picture = Image.fromarray(page)
    font = ImageFont.load_default(size=13)
    ImageDraw.Draw(picture).text((6, row.shape[0] + 3), caption, fill=0, font=font)
    return picture

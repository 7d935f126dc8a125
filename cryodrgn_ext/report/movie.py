"""A series of maps as a moving picture, GIF and MP4: isosurfaces from three sides, there and back."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from fractions import Fraction
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
FILM_QUALITY = "18"  # of x264: looks as the pictures do
#: Grey of the ground, and the part of the scale of grey that surfaces take.
GROUND, DARKEST, BRIGHTEST = 255, 20, 235


def write_movie(path: Path, maps: Sequence[Path], level: float, caption: str, film: Path | None = None) -> bool:
    """Write a GIF of a series of maps, and an MP4 where PyAV is installed.

    Parameters
    ----------
    path : Path
        The GIF; appears whole, or not at all.
    maps : sequence of Path
        In order, of one extent.
    level : float
        Contour level of all of them, in units of the maps.
    caption : str
        What they are; the number of the map is added.
    film : Path, optional
        The MP4.

    Returns
    -------
    bool
        Whether there is an MP4.

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
    shown = pictures + pictures[-2:0:-1]
    first, *others = shown
    with atomic_path(path) as temporary:
        first.save(temporary, format="GIF", save_all=True, append_images=others, duration=each_ms, loop=0)
    return film is not None and _write_film(film, shown, each_ms)


def _write_film(path: Path, pictures: Sequence[Image.Image], each_ms: int) -> bool:
    """Write an MP4 (H.264, which every player and slide takes); False where PyAV is not installed."""
    try:
        av = importlib.import_module("av")
    except ImportError:
        return False
    width, height = (size - size % 2 for size in pictures[0].size)  # its colours are shared by two by two pixels
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as film:
        stream = film.add_stream("libx264", rate=Fraction(1000, each_ms))
        stream.width, stream.height, stream.pix_fmt, stream.options = width, height, "yuv420p", {"crf": FILM_QUALITY}
        for picture in pictures:
            grey = np.ascontiguousarray(np.asarray(picture)[:height, :width])
            film.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="gray")))
        film.mux(stream.encode())
    return True


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

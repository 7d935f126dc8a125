"""Pictures of the maps of a job: central slices and isosurfaces, all of them at one level and one scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.report.isosurface import ViewBox, common_view_box, contour_level, surface_views
from cryodrgn_ext.report.plots import central_slices


@dataclass(frozen=True)
class MapPictures:
    """A map from three sides.

    Attributes
    ----------
    slices : ndarray
        (3, D, D) through the centre, normal to z, y and x.
    views : ndarray
        (3, P, P) isosurface along z, y and x, see :func:`surface_views`.
    """

    slices: NDArray[np.float32]
    views: NDArray[np.float32]


def draw_maps(paths: Sequence[Path], whole: NDArray[np.floating]) -> tuple[MapPictures, list[MapPictures]]:
    """Draw a map of all particles and the maps of groups of them.

    The maps are read twice, one at a time: the scale depends on all of them.

    Parameters
    ----------
    paths : sequence of Path
        Maps of the groups.
    whole : ndarray
        (D, D, D) map of all particles; it sets the contour level.

    Returns
    -------
    MapPictures
        Of ``whole``.
    list of MapPictures
        In the order of ``paths``.

    Raises
    ------
    InputError
        When a map cannot be read.
    """
    level = contour_level(whole)
    view_box = common_view_box(chain((whole,), _maps(paths)), level)
    return _drawn(whole, level, view_box), [_drawn(volume, level, view_box) for volume in _maps(paths)]


def draw_group_maps(paths: Sequence[Path]) -> list[MapPictures]:
    """Draw maps as :func:`draw_maps` where there is none of all particles: the median of their levels serves all.

    Raises
    ------
    InputError
        When a map cannot be read.
    """
    level = float(np.median([contour_level(volume) for volume in _maps(paths)])) if paths else 0.0
    view_box = common_view_box(_maps(paths), level)
    return [_drawn(volume, level, view_box) for volume in _maps(paths)]


def _maps(paths: Sequence[Path]) -> Iterator[NDArray[np.float32]]:
    """The maps one at a time, so that never more than one is in memory."""
    return (read_map(path).data for path in paths)


def _drawn(volume: NDArray[np.floating], level: float, view_box: ViewBox) -> MapPictures:
    return MapPictures(central_slices(volume), surface_views(volume, level, view_box))

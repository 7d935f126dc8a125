"""Pictures of the maps of a job: central slices and isosurfaces, all of them at one level and one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.isosurface import common_frame, contour_level, surface_views
from cryodrgn_ext.analysis.plots import central_slices
from cryodrgn_ext.images.maps import read_map


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
    frame = common_frame(chain((whole,), (read_map(path).data for path in paths)), level)

    def drawn(volume: NDArray[np.floating]) -> MapPictures:
        return MapPictures(central_slices(volume), surface_views(volume, level, frame))

    return drawn(whole), [drawn(read_map(path).data) for path in paths]

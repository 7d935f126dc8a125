"""Viewing directions on a flat map of equal areas."""

from __future__ import annotations

import numpy as np
from matplotlib.projections.geo import MollweideAxes
from numpy.typing import NDArray


def mollweide(rot_deg: NDArray[np.floating], tilt_deg: NDArray[np.floating]) -> NDArray[np.float64]:
    """(n, 2) Mollweide projection of viewing directions (n,), in degrees: equal areas of the sphere stay equal."""
    longitude = np.radians((rot_deg + 180.0) % 360.0 - 180.0)
    # A tilt beyond 0..180 degrees comes down on the other side.
    tilt = np.radians(tilt_deg)
    latitude = np.arcsin(np.clip(np.cos(tilt), -1, 1))
    longitude = np.where(np.sin(tilt) < 0, (longitude + 2 * np.pi) % (2 * np.pi) - np.pi, longitude)
    flat = MollweideAxes.MollweideTransform(1).transform_non_affine(np.column_stack([longitude, latitude]))
    return np.asarray(flat, np.float64)

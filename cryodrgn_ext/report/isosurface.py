"""Pictures of isosurfaces: a map seen from three sides at one contour level, without a 3D library.

Rays are parallel to the axes, so the surface seen along an axis is, in each pixel, the first voxel above the level.
The map is first interpolated onto a finer grid (cubic, separable: three products with small matrices), which makes
surfaces smooth and their normals, the gradient of the density at the surface, accurate. Light comes over the
viewer's left shoulder; hollows are darkened in proportion to their depth below the surroundings.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter

FloatArray = NDArray[np.float32]
SIZE_PX = 176
LEVEL_PERCENTILE = 99.9
LEVEL_SHARE = 0.45
LARGEST_GRID = 128  # finer maps are averaged first: a thumbnail shows no more
LIGHT = np.array([-0.45, 0.55, 0.72]) / np.linalg.norm([-0.45, 0.55, 0.72])  # right, up, to the viewer
AMBIENT, DIFFUSE, SHINE, SHININESS = 0.26, 0.52, 0.20, 18
HOLLOW_PX, HOLLOW_DARKENING = 6.0, 0.35
FOG = 0.18  # how much darker the far side is
SPECKS_PERCENT = 0.1
DENSE_SHARE = 0.3  # of a voxel's neighbourhood of 27, for it to count as part of the particle
VIEW_MARGIN = 1.15
EDGE = 0.12  # share of the level over which an outline fades
# (axis towards the viewer, axis up, axis right) of (z, y, x): what is looked along, as in the slices.
VIEWS = ((0, 1, 2), (1, 0, 2), (2, 0, 1))


@dataclass(frozen=True)
class ViewBox:
    """The part of the box that pictures show: a cube, so that all maps and views have one scale.

    Attributes
    ----------
    center : tuple of float
        z, y, x as fractions of the box edge.
    half_edge : float
        As a fraction of the box edge.
    """

    center: tuple[float, float, float] = (0.5, 0.5, 0.5)
    half_edge: float = 0.5


def contour_level(volume: NDArray[np.floating]) -> float:
    """A level that shows a protein: 0.45 times the 99.9th percentile of the density."""
    return LEVEL_SHARE * float(np.percentile(_reduced(np.asarray(volume, np.float32)), LEVEL_PERCENTILE))


def common_view_box(maps: Iterable[NDArray[np.floating]], level: float) -> ViewBox:
    """Cube around what lies above ``level`` in maps (D, D, D) of one extent, but for scattered specks."""
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for volume in maps:
        small = _reduced(np.asarray(volume, np.float32))
        dense = uniform_filter((small > level).astype(np.float32), 3, mode="constant")
        inside = np.argwhere(dense > DENSE_SHARE)
        if len(inside):
            ends = np.percentile((inside + 0.5) / len(small), (SPECKS_PERCENT, 100 - SPECKS_PERCENT), axis=0)
            low, high = np.minimum(low, ends[0]), np.maximum(high, ends[1])
    if not (high > low).any():
        return ViewBox()
    z, y, x = ((low + high) / 2).tolist()
    return ViewBox((z, y, x), min(0.5, VIEW_MARGIN * float((high - low).max()) / 2))


def surface_views(
    volume: NDArray[np.floating], level: float, view_box: ViewBox | None = None, size_px: int = SIZE_PX
) -> FloatArray:
    """Draw a map from three sides.

    Parameters
    ----------
    volume : ndarray
        (D, D, D), axes z, y, x.
    level : float
        Contour level, in units of the map. Nothing is drawn where nothing lies above it.
    view_box : ViewBox, optional
        What part to draw; the whole box when omitted.
    size_px : int
        Edge P of the pictures.

    Returns
    -------
    ndarray
        (3, P, P) float32 lightness from 0 to 1, NaN beside the surface; seen along z, y and x. The first row is the
        top: y points up in the first picture, z in the others.
    """
    if not np.isfinite(level) or level <= 0:
        return np.full((3, size_px, size_px), np.nan, np.float32)
    fine = _refined(_reduced(np.asarray(volume, np.float32)), size_px, view_box or ViewBox())
    return np.stack([_lit(fine.transpose(view), level) for view in VIEWS])


def _reduced(volume: FloatArray) -> FloatArray:
    """Average blocks of voxels until the edge is at most ``LARGEST_GRID``."""
    factor = -(-len(volume) // LARGEST_GRID)
    if factor == 1:
        return volume
    n = len(volume) // factor
    blocks = volume[: n * factor, : n * factor, : n * factor].reshape(n, factor, n, factor, n, factor)
    averaged: FloatArray = blocks.mean((1, 3, 5))
    return averaged


def _refined(volume: FloatArray, size: int, view_box: ViewBox) -> FloatArray:
    """Interpolate the view box onto a grid (size, size, size) by Catmull-Rom splines along each axis; zero outside."""
    for center in view_box.center:  # each product takes the first axis and puts it last
        matrix = _interpolation(len(volume), size, center, view_box.half_edge)
        volume = np.tensordot(volume, matrix, axes=(0, 1)).astype(np.float32, copy=False)
    return volume


def _interpolation(n: int, size: int, center: float, half_edge: float) -> FloatArray:
    """(size, n) weights of the voxels in the points of the finer grid (Catmull and Rom 1974)."""
    at = (center + half_edge * (2 * (np.arange(size) + 0.5) / size - 1)) * n - 0.5
    base = np.floor(at).astype(int)
    t = at - base
    weights = np.stack([
        -0.5 * t + t**2 - 0.5 * t**3, 1 - 2.5 * t**2 + 1.5 * t**3, 0.5 * t + 2 * t**2 - 1.5 * t**3,
        -0.5 * t**2 + 0.5 * t**3,
    ])  # fmt: skip
    matrix = np.zeros((size, n), np.float32)
    for offset, weight in zip(range(-1, 3), weights, strict=True):
        voxel = base + offset
        known = (voxel >= 0) & (voxel < n)
        np.add.at(matrix, (np.flatnonzero(known), voxel[known]), weight[known].astype(np.float32))
    return matrix


def _lit(volume: FloatArray, level: float) -> FloatArray:
    """Lightness (P, P) of the surface of a map with axes (towards the viewer, up, right)."""
    volume = volume[::-1, ::-1]  # the first plane is the nearest, the first row the top
    inside = volume > level
    first = inside.argmax(axis=0)
    up, right = np.indices(first.shape)
    highest = volume.max(axis=0)
    hit = highest > level
    # Where between two planes the level is crossed.
    before = np.maximum(first - 1, 0)
    near, far = volume[before, up, right], volume[first, up, right]
    depth = first - np.where(far > near, (far - level) / np.maximum(far - near, 1e-12), 0.0)
    normal = _normals(volume, first, up, right)
    toward = normal @ LIGHT
    reflected = np.clip(2 * toward * normal[..., 2] - LIGHT[2], 0, 1)  # of the light, towards the viewer
    light = AMBIENT + DIFFUSE * (0.35 + 0.65 * np.clip(toward, 0, 1)) + SHINE * reflected**SHININESS
    light *= 1 - _hollow(depth, hit)
    if hit.any():
        nearest, farthest = np.percentile(depth[hit], (1, 99))
        light *= 1 - FOG * np.clip((depth - nearest) / max(farthest - nearest, 1e-6), 0, 1)
    # Outlines fade into a white page instead of ending in steps.
    cover = np.clip((highest - level) / (EDGE * level), 0, 1)
    light = cover * light + (1 - cover)
    return np.where(hit, np.clip(light, 0, 1), np.nan).astype(np.float32)


def _normals(
    volume: FloatArray, first: NDArray[np.integer], up: NDArray[np.integer], right: NDArray[np.integer]
) -> NDArray[np.float64]:
    """(P, P, 3) unit vectors out of the surface: right, up, towards the viewer."""
    size = len(volume)

    def difference(axis: int) -> NDArray[np.float64]:
        ends = []
        for step in (2, -2):
            at = [first, up, right]
            at[axis] = np.clip(at[axis] + step, 0, size - 1)
            ends.append(volume[at[0], at[1], at[2]].astype(np.float64))
        change: NDArray[np.float64] = ends[0] - ends[1]
        return change

    # Density falls along the normal. Planes count away from the viewer and rows downwards.
    gradient = np.stack([-difference(2), difference(1), difference(0)], axis=-1)
    unit: NDArray[np.float64] = gradient / np.maximum(np.linalg.norm(gradient, axis=-1, keepdims=True), 1e-12)
    return unit


def _hollow(depth: NDArray[np.float64], hit: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(P, P) darkening of what lies deeper than its surroundings."""
    weight = gaussian_filter(hit.astype(np.float64), HOLLOW_PX)
    around = gaussian_filter(np.where(hit, depth, 0.0), HOLLOW_PX) / np.maximum(weight, 1e-6)
    darkening: NDArray[np.float64] = HOLLOW_DARKENING * np.clip((depth - around) / HOLLOW_PX, 0, 1)
    return darkening

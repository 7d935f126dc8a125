"""Recipes of selections: how particles were chosen, as plain values that can be kept, shown and followed again.

A recipe is a mapping with ``by`` and what belongs to it::

    {"by": "polygon", "x": "pc1", "y": "pc2", "corners": [[0, 0], [1, 0], [1, 1]]}   inside, by even and odd crossings
    {"by": "range", "column": "defocus", "low": 1.2, "high": null}                   both ends included
    {"by": "levels", "column": "state", "levels": [0, 2]}
    {"by": "outliers", "column": "residual", "beyond": 5}     robust standard deviations from the median, on either side
    {"by": "nearest", "z": [0.1, -2.0], "count": 500}                                to a point of the latent space
    {"by": "positions", "positions": [3, 17]}                                        among the shown particles, from 0
    {"by": "saved", "name": "closed"}
    {"by": "union" | "intersection" | "difference", "of": [recipe, recipe, ...]}
    {"by": "invert", "of": [recipe]}                                                 all shown particles but these
    {"by": "all"}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latents import MAD_TO_SD
from cryodrgn_ext.analysis.selection import COMBINATIONS, check_indices, combine
from cryodrgn_ext.errors import InputError

IndexArray = NDArray[np.int64]
Recipe = Mapping[str, Any]
MOST_STEPS = 200
MOST_CORNERS = 20_000


class Chosen(Protocol):
    """What recipes choose from: n particles."""

    @property
    def n(self) -> int:
        """Number of particles."""
        ...

    @property
    def z(self) -> NDArray[np.float32]:
        """(n, q) latents."""
        ...

    def values(self, key: str) -> NDArray[np.float32]:
        """(n,) values of a column; InputError when there is none."""
        ...

    def saved(self, name: str) -> IndexArray:
        """Positions of a saved selection; InputError when there is none."""
        ...


def follow(recipe: Recipe, among: Chosen) -> IndexArray:
    """Find the particles that a recipe chooses.

    Parameters
    ----------
    recipe : mapping
        See the module.
    among : Chosen

    Returns
    -------
    ndarray
        (m,) int64 positions among the n particles, increasing.

    Raises
    ------
    InputError
        When the recipe cannot be understood, or names what there is not.
    """
    if _steps(recipe) > MOST_STEPS:
        raise InputError(
            f"a recipe of more than {MOST_STEPS} steps: save the selection, and go on from it by its name."
        )
    return _follow(recipe, among)


def _follow(recipe: Recipe, among: Chosen) -> IndexArray:
    by = recipe["by"]
    if by in COMBINATIONS:
        return combine([_follow(part, among) for part in _parts(recipe)], by)
    if by == "invert":
        (part,) = _parts(recipe)
        return np.setdiff1d(np.arange(among.n), _follow(part, among))
    try:
        return CHOICES[by](recipe, among)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"a step '{by}' of a selection is not understood ({error}).") from None


def _steps(recipe: object, depth: int = 0) -> int:
    """Number of steps; a recipe of another form is refused."""
    known = (*CHOICES, *COMBINATIONS, "invert")
    if depth > MOST_STEPS or not isinstance(recipe, Mapping) or recipe.get("by") not in known:
        raise InputError(f"a step of a selection must be one of {', '.join(known)}.")
    if recipe["by"] in CHOICES:
        return 1
    parts = _parts(recipe)
    if not parts or (recipe["by"] == "invert" and len(parts) != 1):
        raise InputError(f"'{recipe['by']}' of a selection has {len(parts)} parts, which is not how many it needs.")
    return 1 + sum(_steps(part, depth + 1) for part in parts)


def _parts(recipe: Recipe) -> list[Recipe]:
    parts = recipe.get("of")
    return list(parts) if isinstance(parts, list) else []


def _polygon(recipe: Recipe, among: Chosen) -> IndexArray:
    corners = np.asarray(recipe["corners"], np.float64)
    if corners.ndim != 2 or corners.shape[1] != 2 or not 3 <= len(corners) <= MOST_CORNERS:
        raise ValueError(f"3 to {MOST_CORNERS} corners (x, y) expected")
    if not np.isfinite(corners).all():
        raise ValueError("a corner is not finite")
    points = np.column_stack([among.values(recipe["x"]), among.values(recipe["y"])]).astype(np.float64)
    low, high = corners.min(axis=0), corners.max(axis=0)
    near = np.flatnonzero(((points >= low) & (points <= high)).all(axis=1))
    # Crossings are counted at unit scale: the axes may differ by orders of magnitude.
    scale = np.where(high > low, high - low, 1.0)
    # contains_points leaves the last corner of a closed path out, so that it must be there twice.
    closed = Polygon(np.concatenate([corners, corners[:1]]) / scale - low / scale, closed=True)
    inside: IndexArray = near[closed.contains_points(points[near] / scale - low / scale)].astype(np.int64)
    return inside


def _range(recipe: Recipe, among: Chosen) -> IndexArray:
    low, high = (
        infinite if recipe.get(end) is None else float(recipe[end])
        for end, infinite in (("low", -math.inf), ("high", math.inf))
    )
    values = among.values(recipe["column"])
    return np.flatnonzero((values >= low) & (values <= high)).astype(np.int64)


def _levels(recipe: Recipe, among: Chosen) -> IndexArray:
    wanted = np.asarray([int(level) for level in recipe["levels"]], np.float32)
    return np.flatnonzero(np.isin(among.values(recipe["column"]), wanted)).astype(np.int64)


def _outliers(recipe: Recipe, among: Chosen) -> IndexArray:
    beyond, values = float(recipe["beyond"]), among.values(recipe["column"]).astype(np.float64)
    if not (math.isfinite(beyond) and beyond > 0):
        raise ValueError("a positive number of standard deviations expected")
    known = np.isfinite(values)
    if not known.any():
        return np.empty(0, np.int64)
    middle = np.median(values[known])
    spread = MAD_TO_SD * np.median(np.abs(values[known] - middle))
    far = known & (np.abs(values - middle) > beyond * spread)
    # Of a column that is nearly always the same there is no spread to count in.
    return np.flatnonzero(far if spread > 0 else np.zeros_like(far)).astype(np.int64)


def _nearest(recipe: Recipe, among: Chosen) -> IndexArray:
    point, count = np.asarray(recipe["z"], np.float64), int(recipe["count"])
    if point.shape != (among.z.shape[1],) or not np.isfinite(point).all():
        raise ValueError(f"a point of {among.z.shape[1]} numbers expected")
    if not 1 <= count <= among.n:
        raise ValueError(f"1 to {among.n} particles expected")
    distance = ((among.z - point) ** 2).sum(axis=1)
    # Of equal distances the first rows: a stable sort, so that the same recipe gives the same particles.
    return np.sort(np.argsort(distance, kind="stable")[:count]).astype(np.int64)


def _positions(recipe: Recipe, among: Chosen) -> IndexArray:
    return check_indices(np.asarray(recipe["positions"], np.int64), among.n, "the marked particles")


CHOICES: dict[str, Callable[[Recipe, Chosen], IndexArray]] = {
    "all": lambda _recipe, among: np.arange(among.n),
    "polygon": _polygon,
    "range": _range,
    "levels": _levels,
    "outliers": _outliers,
    "nearest": _nearest,
    "positions": _positions,
    "saved": lambda recipe, among: among.saved(str(recipe["name"])),
}

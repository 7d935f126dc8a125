"""Uniform grids on SO(3) that subdivide exactly: HEALPix on the sphere of views times a circle of in-plane angles.

Level l has 12 nside² views with nside = 2^(l + 1), and 12 · 2^l in-plane angles: 576 rotations 30° apart at level 0,
4,608 (15°) at level 1, 36,864 (7.5°) at level 2, and so on (Zhong 2022, 5.6.1; Yershova et al. 2010). All cells of a
level have the same volume. A rotation is known by its index ``view * n_psi + psi``, views in HEALPix's nested order, so
that its eight children at the next level are known without the grid ever being written down.

The fibre coordinate needs a choice of what "psi = 0" means at each view. A single choice on the whole sphere (Euler
angles, or the Hopf fibration with one axis) is singular somewhere, and there children lie far from their parent. Here
every one of the twelve base faces of HEALPix has its own: the axes at its centre, transported along great circles.
Cells touch where they should, and children stay inside their parent's cell.
"""

from __future__ import annotations

from functools import lru_cache

import healpix
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

BASE_SPACING_DEG = 30.0
MAX_LEVEL = 20  # 12 · 4^21 views times 12 · 2^20 angles still fit into an int64


def _check_level(level: int) -> None:
    if not 0 <= level <= MAX_LEVEL:
        raise ValueError(f"level must lie in 0..{MAX_LEVEL}, got {level}")


def n_views(level: int) -> int:
    """Number of view directions at a level."""
    _check_level(level)
    return 48 << 2 * level


def n_psi(level: int) -> int:
    """Number of in-plane angles at a level."""
    _check_level(level)
    return 12 << level


def n_rotations(level: int) -> int:
    """Number of rotations at a level: 576 · 8^level."""
    return n_views(level) * n_psi(level)


def spacing_deg(level: int) -> float:
    """Step of the in-plane angle, and about the distance between neighbouring views, in degrees."""
    _check_level(level)
    return BASE_SPACING_DEG / (1 << level)


def _directions(theta: NDArray[np.float64], phi: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vectors (..., 3)."""
    sine = np.sin(theta)
    return np.stack([sine * np.cos(phi), sine * np.sin(phi), np.cos(theta)], axis=-1)


@lru_cache(maxsize=1)
def _faces() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres (12, 3) of the base faces, and axes (12, 3, 3) there: columns x, y, view."""
    theta, phi = healpix.pix2ang(1, np.arange(12), nest=True)
    axes = Rotation.from_euler("ZYZ", np.stack([phi, theta, 0 * phi], axis=-1)).as_matrix()
    return _directions(theta, phi), axes


def _axes_at(view: NDArray[np.float64], face: NDArray[np.int64]) -> NDArray[np.float64]:
    """Axes (..., 3, 3) at views (..., 3): the face's own, rotated about the axis that takes its centre there."""
    centres, axes = _faces()
    axis = np.cross(centres[face], view)
    cosine = (centres[face] * view).sum(-1)
    cross = np.zeros((*view.shape[:-1], 3, 3))
    cross[..., 0, 1], cross[..., 0, 2], cross[..., 1, 2] = -axis[..., 2], axis[..., 1], -axis[..., 0]
    cross -= np.swapaxes(cross, -1, -2)
    transport = np.eye(3) + cross + cross @ cross / (1.0 + cosine)[..., None, None]
    out: NDArray[np.float64] = transport @ axes[face]
    return out


def rotations(level: int, index: NDArray[np.integer]) -> NDArray[np.float64]:
    """Rotations R (model to image coordinates) of the grid.

    Parameters
    ----------
    level : int
    index : ndarray
        (...) integers, 0 .. n_rotations(level) - 1.

    Returns
    -------
    ndarray
        (..., 3, 3) float64.
    """
    index = np.asarray(index, dtype=np.int64)
    if index.size and not 0 <= index.min() <= index.max() < n_rotations(level):
        raise ValueError(
            f"indices of level {level} lie in 0..{n_rotations(level) - 1}, got {index.min()}..{index.max()}"
        )
    pixel, step = np.divmod(index, n_psi(level))
    distinct, place = np.unique(pixel, return_inverse=True)
    theta, phi = healpix.pix2ang(2 ** (level + 1), distinct, nest=True)
    axes = _axes_at(_directions(theta, phi), distinct // 4 ** (level + 1))[place.reshape(pixel.shape)]
    psi = (step + 0.5) * (2.0 * np.pi / n_psi(level))
    cosine, sine = np.cos(psi)[..., None], np.sin(psi)[..., None]
    out = np.empty((*index.shape, 3, 3))
    out[..., 0, :] = cosine * axes[..., 0] + sine * axes[..., 1]
    out[..., 1, :] = cosine * axes[..., 1] - sine * axes[..., 0]
    out[..., 2, :] = axes[..., 2]
    return out


@lru_cache(maxsize=3)
def _grid(level: int) -> NDArray[np.float64]:
    return rotations(level, np.arange(n_rotations(level)))


def grid(level: int) -> NDArray[np.float64]:
    """All rotations of a level, (576 · 8^level, 3, 3) float64, in order of their index."""
    if level > 3:
        raise ValueError(f"a whole grid is made up to level 3 (294,912 rotations); for level {level} use rotations()")
    return _grid(level).copy()


@lru_cache(maxsize=4)
def _quads(level: int) -> NDArray[np.int64]:
    nside, count = 1 << level + 1, n_psi(level)
    view = np.arange(n_views(level))
    opposite = healpix.vec2pix(nside, *(-axis for axis in healpix.pix2vec(nside, view, nest=True)), nest=True)
    first = view < opposite
    psi = np.arange(count // 2)
    here, there = (np.asarray(v)[first, None] * count for v in (view, opposite))
    columns = (here + psi, here + psi + count // 2, there + count - 1 - psi, there + count // 2 - 1 - psi)
    return np.stack([column.ravel() for column in columns], axis=1)


def quads(level: int) -> NDArray[np.int64]:
    """Rotations whose central sections are made of the same values, in fours.

    Views come in opposite pairs, and in-plane angles in pairs 180° apart. With R the first of four, the second
    is diag(-1, -1, 1) R, which sees the model at -k (the complex conjugate), the third is diag(1, -1, -1) R, which sees
    it from behind, at (kx, -ky), and the fourth is diag(-1, 1, -1) R.

    Returns
    -------
    ndarray
        (n_rotations(level) / 4, 4) int64 indices; each occurs once.
    """
    return _quads(level).copy()


def children(level: int, index: NDArray[np.integer]) -> NDArray[np.int64]:
    """Indices (..., 8) at ``level + 1`` of the cells into which cells (...) of ``level`` divide."""
    pixel, step = np.divmod(np.asarray(index, dtype=np.int64), n_psi(level))
    views = 4 * pixel[..., None, None] + np.arange(4)[:, None]
    angles = 2 * step[..., None, None] + np.arange(2)
    out: NDArray[np.int64] = (views * n_psi(level + 1) + angles).reshape(*pixel.shape, 8)
    return out


def parents(level: int, index: NDArray[np.integer]) -> NDArray[np.int64]:
    """Indices (...) at ``level - 1`` of the cells that cells (...) of ``level`` belong to."""
    if level < 1:
        raise ValueError("cells of level 0 have no parents")
    pixel, step = np.divmod(np.asarray(index, dtype=np.int64), n_psi(level))
    out: NDArray[np.int64] = pixel // 4 * n_psi(level - 1) + step // 2
    return out


def nearest(level: int, rotation: NDArray[np.floating]) -> NDArray[np.int64]:
    """Indices (...) of the grid's rotations that are nearest to rotations (..., 3, 3)."""
    rotation = np.asarray(rotation, dtype=np.float64)
    flat = rotation.reshape(-1, 3, 3)
    # The nearest one is at the view's own pixel or at one beside it: look around the view at two distances.
    reach = np.deg2rad(spacing_deg(level))
    azimuth = np.linspace(0.0, 2.0 * np.pi, 12, endpoint=False)
    looks = [np.array([[0.0, 0.0, 1.0]])]
    looks += [_directions(np.full(12, reach * part), azimuth + part) for part in (0.5, 0.9)]
    views = np.einsum("lj,njk->nlk", np.concatenate(looks), flat)
    pixels = healpix.vec2pix(2 ** (level + 1), *np.moveaxis(views, -1, 0), nest=True)
    count = n_psi(level)
    zero = rotations(level, pixels * count)
    # R = Rz(-psi) R0: the best psi for a view maximises the trace of R R0ᵀ Rz(psi).
    relative = np.einsum("nij,nlkj->nlik", flat, zero)
    psi = np.arctan2(relative[..., 0, 1] - relative[..., 1, 0], relative[..., 0, 0] + relative[..., 1, 1])
    candidates = pixels * count + np.rint(psi / (2.0 * np.pi / count)).astype(np.int64) % count
    trace = np.einsum("nlij,nij->nl", rotations(level, candidates), flat)
    best = np.take_along_axis(candidates, trace.argmax(1)[:, None], axis=1)[:, 0]
    out: NDArray[np.int64] = best.reshape(rotation.shape[:-2])
    return out

"""Symmetry that two independent searches without symmetry show by how their poses differ.

Images of a particle with a point group G fit its map in as many poses as G has rotations, and each search chooses among
them by chance. Once the coordinates of two searches have been brought together, the poses of an image then differ by a
rotation of G: differences heap up at the rotations of a group, where those of wrong poses are scattered. The group's
axes are where the heaps say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryodrgn_ext.fourier.point_groups import PointGroup, point_group

FloatArray = NDArray[np.float64]

#: Names that are tried, larger groups first.
NAMES = ("I", "O", "T", *(f"D{n}" for n in range(12, 1, -1)), *(f"C{n}" for n in range(24, 1, -1)))
#: Differences within this are one heap, and heaps of one group lie where the group has a rotation, within half of it.
HEAP_DEG = 10.0
#: A heap holds at least so many images, and so many times as many as differences that are spread evenly would bring.
LEAST_IMAGES, OVER_CHANCE = 5, 10.0
#: The smallest heap of a group holds at least this share of their mean: each search chooses by chance.
LEAST_SHARE = 0.3
MOST_HEAPS, CANDIDATES = 64, 256
ITERATIONS = 10


@dataclass(frozen=True)
class FoundSymmetry:
    """A point group and where its axes are.

    Attributes
    ----------
    group : PointGroup
    frame : ndarray
        (3, 3) rotation of the model's coordinates after which the axes are RELION's: x' = frame x.
    """

    group: PointGroup
    frame: FloatArray

    def equivalents(self) -> FloatArray:
        """(S, 3, 3) the group's rotations in the coordinates in which it was found."""
        found: FloatArray = self.frame.T @ self.group.rotations @ self.frame
        return found


def differences(ours: FloatArray, theirs: FloatArray) -> FloatArray:
    """(N, 3, 3) rotations S of the model with theirs = ours S, for rotations (N, 3, 3) in the same coordinates."""
    found: FloatArray = np.swapaxes(ours, 1, 2) @ theirs
    return found


def smallest_deg(difference: FloatArray, group: FloatArray) -> FloatArray:
    """(N,) degrees between rotations (N, 3, 3) and the nearest of a group (S, 3, 3)."""
    trace = difference.reshape(-1, 9) @ group.reshape(-1, 9).T
    found: FloatArray = np.degrees(np.arccos(np.clip((trace.max(axis=1) - 1.0) / 2.0, -1.0, 1.0)))
    return found


def find_symmetry(difference: FloatArray) -> FoundSymmetry | None:
    """Find the largest point group at whose rotations differences (N, 3, 3) of poses heap up, if there is one."""
    heaps = _heaps(difference)
    if len(heaps) < 2:
        return None
    for name in NAMES:
        group = point_group(name)
        if group.order > len(heaps) + 1:
            continue
        for frame in _frames(group, heaps):
            found = FoundSymmetry(group, frame)
            counts = _counts(difference, found.equivalents())
            if counts.min() >= max(LEAST_IMAGES, LEAST_SHARE * counts.mean()):
                return FoundSymmetry(group, _refined(difference, found))
    return None


def _heaps(difference: FloatArray) -> FloatArray:
    """(H, 3, 3) middles of the heaps, the identity first."""
    flat = difference.reshape(-1, 9)
    chance = (np.radians(HEAP_DEG) - np.sin(np.radians(HEAP_DEG))) / np.pi
    least = max(LEAST_IMAGES, OVER_CHANCE * chance * len(flat))
    found, left = [np.eye(3)], smallest_deg(difference, np.eye(3)[None]) > 2 * HEAP_DEG
    while left.any() and len(found) < MOST_HEAPS:
        members = np.flatnonzero(left)
        some = members[np.unique(np.linspace(0, len(members) - 1, min(len(members), CANDIDATES)).astype(int))]
        near = flat[some] @ flat[members].T > 1.0 + 2.0 * np.cos(np.radians(HEAP_DEG))
        best = int(near.sum(axis=1).argmax())
        if near[best].sum() < least:
            break
        middle = Rotation.from_matrix(difference[members[near[best]]]).mean().as_matrix()
        found.append(middle)
        left &= smallest_deg(difference, middle[None]) > 2 * HEAP_DEG
    return np.stack(found)


def _frames(group: PointGroup, heaps: FloatArray) -> Iterator[FloatArray]:
    """Frames in which one or two rotations that generate a group are heaps: those in which all of it are."""
    turns = Rotation.from_matrix(group.rotations[1:]).as_rotvec()
    others = Rotation.from_matrix(heaps[1:]).as_rotvec()
    first = turns[np.linalg.norm(turns, axis=1).argmin()]  # a rotation of the highest fold
    across = np.linalg.norm(np.cross(turns, first), axis=1)
    second = turns[across.argmax()] if across.max() > 1e-3 else None
    for a in _alike(first, others):
        if second is None:
            yield _bringing(np.stack([a]), np.stack([first]))
            continue
        for b in _alike(second, others):
            angle = np.dot(a, b) - np.dot(first, second)
            if abs(angle) < 2 * np.sin(np.radians(HEAP_DEG)) * np.linalg.norm(first) * np.linalg.norm(second):
                frame = _bringing(np.stack([a, b]), np.stack([first, second]))
                here = frame.T @ group.rotations @ frame
                if smallest_deg(here, heaps).max() < HEAP_DEG:
                    yield frame


def _alike(turn: FloatArray, others: FloatArray) -> Iterator[FloatArray]:
    """Rotation vectors (H, 3) by about the same angle as one; half turns in either sense."""
    length = np.linalg.norm(turn)
    for other in others:
        if abs(np.linalg.norm(other) - length) < np.radians(HEAP_DEG):
            yield other
            if length > np.pi - 1e-6:
                yield -other


def _bringing(vectors: FloatArray, onto: FloatArray) -> FloatArray:
    """(3, 3) rotation that brings vectors (k, 3) onto others as nearly as it can."""
    rotation, _ = Rotation.align_vectors(onto, vectors)
    return np.asarray(rotation.as_matrix(), np.float64)


def _counts(difference: FloatArray, group: FloatArray) -> NDArray[np.int64]:
    """(S,) images whose difference lies near each rotation of a group."""
    near = difference.reshape(-1, 9) @ group.reshape(-1, 9).T > 1.0 + 2.0 * np.cos(np.radians(HEAP_DEG))
    return np.asarray(near.sum(axis=0), np.int64)


def _refined(difference: FloatArray, found: FoundSymmetry) -> FloatArray:
    """Frame that best explains the differences near the group: Gauss-Newton steps on a small rotation of it."""
    group, frame = found.group.rotations, found.frame
    for _ in range(ITERATIONS):
        moved = frame @ difference @ frame.T
        trace = moved.reshape(-1, 9) @ group.reshape(-1, 9).T
        nearest = group[trace.argmax(axis=1)]
        # With frame' = exp(w) frame, frame' D frame'ᵀ changes by w - S w about S = frame D frameᵀ.
        rest = Rotation.from_matrix(moved @ np.swapaxes(nearest, 1, 2)).as_rotvec()
        use = np.linalg.norm(rest, axis=1) < np.radians(HEAP_DEG)
        design = (np.eye(3) - nearest[use]).reshape(-1, 3)
        step = np.linalg.lstsq(design, -rest[use].reshape(-1), rcond=1e-6)[0]
        frame = Rotation.from_rotvec(step).as_matrix() @ frame
        if np.linalg.norm(step) < 1e-9:
            break
    return frame

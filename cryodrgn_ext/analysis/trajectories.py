"""Trajectories through latent space: where to decode a series of volumes (Zhong 2022, 4.4.11, 4.4.12).

Every function returns the latents of the frames and how far along the path they are; all are deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from cryodrgn_ext.analysis.latent_graph import GraphPath, connected_graph, neighbor_graph, shortest_path
from cryodrgn_ext.analysis.latents import nearest_particles, principal_components
from cryodrgn_ext.errors import InputError

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]
FERMAT_POWER = 3.0
LOCAL_MEAN = 20  # particles that a frame of a density-weighted path is the mean of


@dataclass(frozen=True)
class Trajectory:
    """Frames in order.

    Attributes
    ----------
    z : ndarray
        (P, q) float32 latents to decode.
    position : ndarray
        (P,) Euclidean length of the path up to each frame, in units of z.
    anchors : ndarray
        (A,) int64 particles that the path was led through; empty where there are none.
    breaks : tuple of int
        Numbers a of anchors from which the path had to jump to anchor a + 1.
    """

    z: NDArray[np.float32]
    position: FloatArray
    anchors: IndexArray
    breaks: tuple[int, ...] = ()

    @property
    def n_frames(self) -> int:
        """Number P of frames."""
        return len(self.z)


@dataclass(frozen=True)
class FrameParticles:
    """The particles nearest to each frame.

    Attributes
    ----------
    index : ndarray
        (P, k) int64, nearest first.
    distance : ndarray
        (P, k) in latent space.
    """

    index: IndexArray
    distance: FloatArray


def along_component(
    z: NDArray[np.floating], component: int = 1, n_frames: int = 10, percentiles: tuple[float, float] = (5.0, 95.0)
) -> Trajectory:
    """Equally spaced points along a principal component, from one percentile of the particles to another.

    The other components stay at their mean (Zhong 2022, 4.4.11: five points from the 5th to the 95th percentile).

    Parameters
    ----------
    z : ndarray
        (N, q).
    component : int
        From 1.
    n_frames : int
        At least 2.
    percentiles : (float, float)

    Raises
    ------
    InputError
        When there is no such component, or fewer than two frames, or the percentiles are not in order.
    """
    components = principal_components(z)
    q = z.shape[1]
    if not 1 <= component <= q:
        raise InputError(f"there is no principal component {component}: the latents have {q} dimensions, from 1")
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise InputError(f"percentiles must rise between 0 and 100, got {low:g} and {high:g}")
    _check_frames(n_frames)
    ends = np.percentile(components.projections[:, component - 1].astype(np.float64), [low, high])
    coordinates = np.zeros((n_frames, q))
    coordinates[:, component - 1] = np.linspace(ends[0], ends[1], n_frames)
    points = components.latent_at(coordinates)
    return Trajectory(points.astype(np.float32), _arc_length(points), np.empty(0, np.int64))


def straight(points: NDArray[np.floating], n_frames: int = 10) -> Trajectory:
    """Equally spaced frames on the straight lines that join given latents (A, q) in order.

    Raises
    ------
    InputError
        When there are fewer than two latents or frames, or all latents are the same.
    """
    if len(points) < 2:
        raise InputError(f"a line needs at least two latents, got {len(points)}")
    _check_frames(n_frames)
    return _spaced(points.astype(np.float64), n_frames, np.empty(0, np.int64), ())


def through_graph(
    z: NDArray[np.floating],
    anchors: Sequence[int],
    *,
    mean_neighbors: float = 5.0,
    max_neighbors: int = 10,
    n_frames: int | None = None,
    seed: int = 0,
    workers: int = 1,
) -> Trajectory:
    """Shortest path through the graph of nearest neighbours, led through anchors (Zhong 2022, 4.4.12).

    Parameters
    ----------
    z : ndarray
        (N, q).
    anchors : sequence of int
        Particles, at least two; see :func:`anchor_particles`.
    mean_neighbors, max_neighbors : float, int
        See :func:`cryodrgn_ext.analysis.latent_graph.neighbor_graph`.
    n_frames : int, optional
        So many of the visited particles, evenly along the path; all of them when omitted.
    seed, workers : int
        Of the graph.

    Raises
    ------
    InputError
        When there are fewer than two anchors or no two in succession are connected.
    """
    graph = neighbor_graph(
        z, mean_neighbors=mean_neighbors, max_neighbors=max_neighbors, always=anchors, seed=seed, workers=workers
    )
    path = shortest_path(graph, anchors)
    visited = _thinned(z, path, n_frames)
    points = z[visited].astype(np.float64)
    return Trajectory(points.astype(np.float32), _arc_length(points), np.asarray(anchors, np.int64), path.breaks)


def through_density(
    z: NDArray[np.floating],
    anchors: Sequence[int],
    *,
    n_frames: int = 20,
    n_neighbors: int = 10,
    power: float = FERMAT_POWER,
    seed: int = 0,
    workers: int = 1,
) -> Trajectory:
    """Path through anchors that keeps to regions of many particles, with evenly spaced frames.

    The shortest path under the Fermat distance (edges cost their length to ``power``) in a connected graph of nearest
    neighbours; each frame is the mean of the 20 particles nearest to a point of it, which takes out the zigzag between
    single particles and stays among them.

    Raises
    ------
    InputError
        When there are fewer than two anchors or frames, or all anchors are the same.
    """
    _check_frames(n_frames)
    graph = connected_graph(z, n_neighbors=n_neighbors, always=anchors, seed=seed, workers=workers)
    path = shortest_path(graph, anchors, power)
    spaced = _spaced(z[path.particle].astype(np.float64), n_frames, np.asarray(anchors, np.int64), ())
    near = nearest_of_frames(z, spaced.z, min(LOCAL_MEAN, len(z))).index
    points = z[near].mean(axis=1, dtype=np.float64)
    return Trajectory(points.astype(np.float32), _arc_length(points), spaced.anchors)


def beneath_line(
    plane: NDArray[np.floating], z: NDArray[np.floating], line: NDArray[np.floating], n_points: int
) -> FloatArray:
    """Latents beneath a line that was drawn in a picture of the particles, whatever two columns it shows.

    Of evenly spaced points of the line, the mean latents of the 20 particles that the picture shows nearest to each: so
    the path stays among particles, and needs no way back from the plane to the latents, which UMAP has not.

    Parameters
    ----------
    plane : ndarray
        (N, 2) places of the particles; those without one, NaN, are left out. Each axis counts in units of its range.
    z : ndarray
        (N, q).
    line : ndarray
        (P, 2) corners of the line, in units of the plane.
    n_points : int

    Returns
    -------
    ndarray
        (m, q), m at most ``n_points``: points with the same particles as the one before are left out.

    Raises
    ------
    InputError
        When the line has no length, or all its points have the same particles.
    """
    known = np.flatnonzero(np.isfinite(plane).all(axis=1))
    if not len(known):
        raise InputError("no particle has a place in this plane.")
    places = plane[known].astype(np.float64)
    unit = np.ptp(places, axis=0)
    unit[unit == 0] = 1.0
    spaced = _spaced(line.astype(np.float64) / unit, n_points, np.empty(0, np.int64), ())
    near = nearest_of_frames(places / unit, spaced.z, LOCAL_MEAN).index
    points: FloatArray = z[known[near]].mean(axis=1, dtype=np.float64)
    moves = np.concatenate([[True], np.any(points[1:] != points[:-1], axis=1)])
    if moves.sum() < 2:
        raise InputError("all of this line lies over the same particles: draw a longer one, or zoom out.")
    kept: FloatArray = points[moves]
    return kept


def anchor_particles(z: NDArray[np.floating], latents: NDArray[np.floating]) -> IndexArray:
    """(A,) particles nearest to given latents (A, q), each once in succession."""
    nearest = nearest_particles(z, latents)
    kept: IndexArray = nearest[np.concatenate([[True], nearest[1:] != nearest[:-1]])]
    return kept


def nearest_of_frames(z: NDArray[np.floating], frames: NDArray[np.floating], n: int) -> FrameParticles:
    """The ``n`` particles nearest to each frame (P, q), fewer if there are fewer."""
    n = min(n, len(z))
    distance, index = KDTree(z).query(frames, k=n)
    return FrameParticles(index.reshape(len(frames), n).astype(np.int64), distance.reshape(len(frames), n))


def _check_frames(n_frames: int) -> None:
    if n_frames < 2:
        raise InputError(f"a trajectory has at least two frames, got {n_frames}")


def _arc_length(points: FloatArray) -> FloatArray:
    steps: FloatArray = np.linalg.norm(np.diff(points, axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def _spaced(points: FloatArray, n_frames: int, anchors: IndexArray, breaks: tuple[int, ...]) -> Trajectory:
    """Frames at equal distances along a line through points (A, q)."""
    length = _arc_length(points)
    if not length[-1] > 0:
        raise InputError("all anchors of the path are the same point: there is nowhere to go")
    position = np.linspace(0, length[-1], n_frames)
    z = np.stack([np.interp(position, length, column) for column in points.T], axis=1)
    return Trajectory(z.astype(np.float32), position, anchors, breaks)


def _thinned(z: NDArray[np.floating], path: GraphPath, n_frames: int | None) -> IndexArray:
    """Visited particles, or at most ``n_frames`` of them, evenly by the length of the path; both ends stay."""
    if n_frames is None or n_frames >= len(path.particle):
        return path.particle
    _check_frames(n_frames)
    length = _arc_length(z[path.particle].astype(np.float64))
    wanted = np.linspace(0, length[-1], n_frames)
    nearest = np.abs(length[None, :] - wanted[:, None]).argmin(axis=1)
    kept: IndexArray = path.particle[np.unique(nearest)]
    return kept

"""Graphs of nearest neighbours among latents, and shortest paths through them (Zhong 2022, 4.4.12)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, dijkstra, minimum_spanning_tree
from scipy.spatial import KDTree

from cryodrgn_ext.analysis.latents import check_latents
from cryodrgn_ext.errors import InputError

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]
NO_PREDECESSOR = -9999  # of scipy


@dataclass(frozen=True)
class LatentGraph:
    """An undirected graph whose nodes are particles.

    Attributes
    ----------
    node : ndarray
        (n,) int64 particle of each node, increasing.
    lengths : sparse array
        (n, n) symmetric; the Euclidean distance of joined nodes.
    component : ndarray
        (n,) connected part that each node belongs to, the largest first.
    threshold : float
        Length of the longest edge.
    """

    node: IndexArray
    lengths: csr_array
    component: NDArray[np.int64]
    threshold: float

    @property
    def degree(self) -> IndexArray:
        """(n,) number of neighbours of each node."""
        degree: IndexArray = np.diff(self.lengths.indptr).astype(np.int64)
        return degree

    def nodes_of(self, particles: Sequence[int] | IndexArray) -> IndexArray:
        """Nodes of particles, all of which must be in the graph."""
        rows = np.searchsorted(self.node, particles)
        rows = np.minimum(rows, len(self.node) - 1)
        absent = np.flatnonzero(self.node[rows] != np.asarray(particles))
        if len(absent):
            raise InputError(f"particle {particles[absent[0]]} is not in the graph")
        return rows.astype(np.int64)


@dataclass(frozen=True)
class GraphPath:
    """A path through anchors.

    Attributes
    ----------
    particle : ndarray
        (P,) int64 visited particles in order, anchors included.
    anchor_position : ndarray
        (A,) where in the path each anchor is.
    breaks : tuple of int
        Numbers a of anchors from which no edges lead to anchor a + 1: there the path jumps.
    cost : float
        Sum of the costs of the edges passed.
    """

    particle: IndexArray
    anchor_position: IndexArray
    breaks: tuple[int, ...]
    cost: float


def neighbor_graph(
    z: NDArray[np.floating],
    *,
    mean_neighbors: float = 5.0,
    max_neighbors: int = 10,
    always: Sequence[int] = (),
    max_points: int = 200_000,
    seed: int = 0,
    workers: int = 1,
) -> LatentGraph:
    """Join particles closer than a threshold, at most ``max_neighbors`` to each, ``mean_neighbors`` on average.

    An edge must be among the ``max_neighbors`` shortest of both of its ends, so that no node exceeds that number; of
    these edges the shortest are kept, so many that nodes have ``mean_neighbors`` on average. The threshold that this
    amounts to is in the result.

    Parameters
    ----------
    z : ndarray
        (N, q) latents.
    mean_neighbors : float
        All edges that there are, if there are fewer.
    max_neighbors : int
    always : sequence of int
        Particles that must be in the graph (anchors).
    max_points : int
        Larger sets are sampled, so that time and memory do not grow with N.
    seed : int
        Of the sample.
    workers : int
        Threads of the neighbour search; -1 for all.

    Raises
    ------
    InputError
        When latents are not finite or fewer than two, or the numbers of neighbours are not sensible.
    """
    check_latents(z)
    if len(z) < 2:
        raise InputError("a graph needs at least two particles")
    if not 1 <= mean_neighbors <= max_neighbors:
        raise InputError(
            f"nodes cannot have {mean_neighbors:g} neighbours on average and at most {max_neighbors}: the first must "
            "be at least 1 and not exceed the second"
        )
    node = _sample(len(z), always, max_points, seed)
    points = np.ascontiguousarray(z[node], np.float64)
    first, second, length = _mutual_neighbors(points, max_neighbors, workers)
    kept = np.argsort(length, kind="stable")[: round(mean_neighbors * len(node) / 2)]
    return _graph(node, first[kept], second[kept], length[kept])


def connected_graph(
    z: NDArray[np.floating],
    *,
    n_neighbors: int = 10,
    always: Sequence[int] = (),
    max_points: int = 200_000,
    seed: int = 0,
    workers: int = 1,
) -> LatentGraph:
    """Join every particle with its nearest neighbours, and the parts that remain by their shortest connections.

    Unlike :func:`neighbor_graph` this has paths between all nodes. Parts are joined through a minimum spanning tree of
    the shortest connections between them, so that paths cross a gap where it is narrowest.
    """
    check_latents(z)
    if len(z) < 2:
        raise InputError("a graph needs at least two particles")
    node = _sample(len(z), always, max_points, seed)
    points = np.ascontiguousarray(z[node], np.float64)
    k = min(n_neighbors, len(node) - 1)
    distance, neighbor = KDTree(points).query(points, k=k + 1, workers=workers)
    first, second, length = _unique_edges(np.repeat(np.arange(len(node)), k + 1), neighbor.ravel(), distance.ravel())
    graph = _graph(node, first, second, length)
    while graph.component.max() > 0:
        bridges = _bridges(points, graph.component)
        edges = graph.lengths.tocoo()
        upper = edges.row < edges.col
        graph = _graph(
            node,
            np.concatenate([edges.row[upper], bridges[0]]),
            np.concatenate([edges.col[upper], bridges[1]]),
            np.concatenate([edges.data[upper], bridges[2]]),
        )
    return graph


def _sample(n: int, always: Sequence[int], max_points: int, seed: int) -> IndexArray:
    if n <= max_points:
        return np.arange(n)
    chosen = np.random.default_rng(seed).choice(n, max_points, replace=False)
    return np.union1d(chosen, np.asarray(always, np.int64)).astype(np.int64)


def _mutual_neighbors(points: FloatArray, k: int, workers: int) -> tuple[IndexArray, IndexArray, FloatArray]:
    """Edges (first < second) between points that are among each other's k nearest."""
    n = len(points)
    k = min(k, n - 1)
    # Among twins the point itself is not the first of its own neighbours: it is dropped by name.
    distance, neighbor = KDTree(points).query(points, k=k + 1, workers=workers)
    own = np.arange(n)[:, None]
    is_self = neighbor == own
    is_self[~is_self.any(axis=1), -1] = True  # more than k twins: drop the farthest instead
    others = ~is_self
    row = np.repeat(np.arange(n), k)
    column, length = neighbor[others], distance[others]
    low, high = np.minimum(row, column), np.maximum(row, column)
    edge, place, count = np.unique(low * n + high, return_index=True, return_counts=True)
    both = count == 2
    return (edge[both] // n).astype(np.int64), (edge[both] % n).astype(np.int64), length[place[both]]


def _unique_edges(row: IndexArray, column: IndexArray, length: FloatArray) -> tuple[IndexArray, IndexArray, FloatArray]:
    n = int(max(row.max(), column.max())) + 1
    low, high = np.minimum(row, column), np.maximum(row, column)
    edge, place = np.unique(low * n + high, return_index=True)
    proper = edge // n != edge % n
    return edge[proper] // n, edge[proper] % n, length[place[proper]]


def _graph(node: IndexArray, first: IndexArray, second: IndexArray, length: FloatArray) -> LatentGraph:
    n = len(node)
    # A length of zero would be no edge for scipy; twins get the smallest length that is one.
    length = np.maximum(length, np.finfo(np.float64).tiny)
    rows, columns = np.concatenate([first, second]), np.concatenate([second, first])
    lengths = coo_array((np.concatenate([length, length]), (rows, columns)), shape=(n, n)).tocsr()
    _, part = connected_components(lengths, directed=False)
    by_size = np.argsort(-np.bincount(part), kind="stable")
    rank = np.empty(len(by_size), np.int64)
    rank[by_size] = np.arange(len(by_size))
    return LatentGraph(node, lengths, rank[part], float(length.max(initial=0.0)))


def _bridges(points: FloatArray, component: IndexArray) -> tuple[IndexArray, IndexArray, FloatArray]:
    """Shortest connections that join every part to its nearest other part (one round of Boruvka's algorithm)."""
    n_parts = int(component.max()) + 1
    first, second, length = [], [], []
    everything = np.arange(len(points))
    tree = KDTree(points)
    for part in range(1, n_parts):  # the largest is joined by the others
        inside = everything[component == part]
        k = min(len(points), len(inside) + 1)
        if k <= 64:  # a small part: its members' nearest neighbours include a stranger
            distance, neighbor = tree.query(points[inside], k=k)
            distance = np.where(component[neighbor] == part, np.inf, distance)
            flat = int(distance.argmin())
            row, column = divmod(flat, k)
            first.append(inside[row])
            second.append(neighbor[row, column])
            length.append(distance[row, column])
        else:
            outside = everything[component != part]
            distance, neighbor = KDTree(points[outside]).query(points[inside])
            row = int(distance.argmin())
            first.append(inside[row])
            second.append(outside[neighbor[row]])
            length.append(distance[row])
    # Two parts may have chosen the same connection, or close a ring: keep a tree between parts.
    a, b, d = np.array(first), np.array(second), np.maximum(np.array(length), np.finfo(np.float64).tiny)
    low, high = np.minimum(component[a], component[b]), np.maximum(component[a], component[b])
    order = np.argsort(d, kind="stable")
    _, place = np.unique(low[order] * n_parts + high[order], return_index=True)
    chosen = order[np.sort(place)]
    between = coo_array((d[chosen], (low[chosen], high[chosen])), shape=(n_parts, n_parts)).tocsr()
    tree_edges = minimum_spanning_tree(between).tocoo()
    wanted = set(zip(tree_edges.row.tolist(), tree_edges.col.tolist(), strict=True))
    kept = np.array([i for i in chosen if (low[i], high[i]) in wanted])
    return a[kept], b[kept], d[kept]


def shortest_path(graph: LatentGraph, anchors: Sequence[int], power: float = 1.0) -> GraphPath:
    """Dijkstra's shortest path through a series of anchors, in their order.

    Parameters
    ----------
    graph : LatentGraph
    anchors : sequence of int
        Particles, at least two.
    power : float
        The cost of an edge is its length to this power: 1 is Zhong 2022, 4.4.12; above 1 many short steps are cheaper
        than a long one, so that paths keep to where particles are dense (Fermat distance; Hwang et al. 2016).

    Raises
    ------
    InputError
        When there are fewer than two anchors, or no two in succession are connected.
    """
    if len(anchors) < 2:
        raise InputError(f"a path needs at least two anchors, got {len(anchors)}")
    at = graph.nodes_of(list(anchors))
    # Relative to the longest edge, so that powers neither overflow nor vanish.
    costs = graph.lengths.copy()
    scale = max(graph.threshold, np.finfo(np.float64).tiny)
    costs.data = np.maximum((costs.data / scale) ** power, np.finfo(np.float64).tiny)
    visited = [int(at[0])]
    position, breaks, total = [0], [], 0.0
    for number, (start, end) in enumerate(pairwise(at.tolist())):
        if start == end:
            position.append(len(visited) - 1)
            continue
        if graph.component[start] != graph.component[end]:
            breaks.append(number)
            visited.append(int(end))
        else:
            cost, predecessor = dijkstra(costs, directed=False, indices=int(start), return_predecessors=True)
            total += float(cost[end])
            visited += _trace(predecessor, int(start), int(end))
        position.append(len(visited) - 1)
    if len(breaks) == len(at) - 1:
        raise InputError(
            "no two successive anchors are connected in the graph of nearest neighbours: raise --mean_neighbors and "
            "--max_neighbors, choose anchors in denser regions, or use the method density, which bridges gaps"
        )
    return GraphPath(graph.node[visited], np.array(position), tuple(breaks), total * scale**power)


def _trace(predecessor: NDArray[np.int32], start: int, end: int) -> list[int]:
    """Nodes after ``start`` up to ``end``."""
    backward = [end]
    while (before := int(predecessor[backward[-1]])) != start:
        if before == NO_PREDECESSOR:
            raise InputError(f"there is no path from node {start} to node {end}")
        backward.append(before)
    return backward[::-1]

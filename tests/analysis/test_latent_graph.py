from __future__ import annotations

from itertools import pairwise

import networkx as nx
import numpy as np
import pytest

from cryodrgn_ext.analysis.latent_graph import LatentGraph, connected_graph, neighbor_graph, shortest_path
from cryodrgn_ext.errors import InputError


def cloud(n: int = 500, q: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, q))


def oracle(graph: LatentGraph, power: float = 1.0) -> nx.Graph:
    result = nx.Graph()
    result.add_nodes_from(graph.node.tolist())
    edges = graph.lengths.tocoo()
    for a, b, length in zip(edges.row, edges.col, edges.data, strict=True):
        result.add_edge(int(graph.node[a]), int(graph.node[b]), weight=length**power)
    return result


def test_graph_is_that_of_the_definition() -> None:
    """Against all pairwise distances in float64: mutual neighbours, shortest first, five on average."""
    z = cloud(300)
    graph = neighbor_graph(z)
    distance = np.linalg.norm(z[:, None] - z[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    rank = distance.argsort(axis=1).argsort(axis=1)
    mutual = (rank < 10) & (rank.T < 10)
    lengths = np.sort(distance[np.triu(mutual)])
    threshold = lengths[300 * 5 // 2 - 1]
    expected = mutual & (distance <= threshold)
    assert np.array_equal(graph.lengths.toarray() > 0, expected)
    assert graph.threshold == pytest.approx(threshold)
    np.testing.assert_allclose(graph.lengths.toarray()[expected], distance[expected])


@pytest.mark.parametrize(("mean", "most"), [(5.0, 10), (3.0, 6), (8.0, 20)])
def test_mean_and_largest_number_of_neighbours(mean: float, most: int) -> None:
    graph = neighbor_graph(cloud(2000, 4), mean_neighbors=mean, max_neighbors=most)
    assert graph.degree.max() <= most
    assert graph.degree.mean() == pytest.approx(mean, abs=0.01)


def test_defaults_are_those_published() -> None:
    degree = neighbor_graph(cloud(3000, 8)).degree
    assert degree.mean() == pytest.approx(5.0, abs=0.01)
    assert degree.max() == 10


def test_fewer_mutual_neighbours_than_asked_for_are_all_joined() -> None:
    graph = neighbor_graph(cloud(400), mean_neighbors=10)
    assert 5 < graph.degree.mean() < 10


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("power", [1.0, 3.0])
def test_paths_are_the_shortest(seed: int, power: float) -> None:
    z = cloud(seed=seed)
    graph = connected_graph(z, n_neighbors=5)
    truth = oracle(graph, power)
    anchors = np.random.default_rng(seed).choice(500, 4, replace=False).tolist()
    path = shortest_path(graph, anchors, power)
    expected = sum(nx.dijkstra_path_length(truth, a, b) for a, b in pairwise(anchors))
    assert path.cost == pytest.approx(expected)
    assert nx.path_weight(truth, path.particle.tolist(), "weight") == pytest.approx(expected)
    assert path.particle[path.anchor_position].tolist() == anchors
    assert path.breaks == ()


def test_paths_in_the_published_graph() -> None:
    z = cloud(800, 2, seed=3)
    graph = neighbor_graph(z)
    truth = oracle(graph)
    members = graph.node[graph.component == 0]
    path = shortest_path(graph, [int(members[0]), int(members[-1])])
    assert path.cost == pytest.approx(nx.dijkstra_path_length(truth, int(members[0]), int(members[-1])))


def test_parts_are_those_of_networkx() -> None:
    z = np.concatenate([cloud(100), cloud(60, seed=1) + 50])
    graph = neighbor_graph(z)
    parts = sorted(nx.connected_components(oracle(graph)), key=len, reverse=True)
    assert len(parts) == graph.component.max() + 1
    assert set(graph.node[graph.component == 0].tolist()) == parts[0]


def test_anchors_that_are_not_connected_are_named() -> None:
    z = np.concatenate([cloud(200), cloud(200, seed=1) + 50])
    graph = neighbor_graph(z)
    main = graph.node[graph.component == 0]
    a, b = int(main[0]), int(main[-1])
    other = int(next(node for node in graph.node if (node < 200) != (a < 200) and graph.degree[node] > 0))
    path = shortest_path(graph, [a, b, other])
    assert path.breaks == (1,)
    assert path.particle[-2:].tolist() == [b, other]
    with pytest.raises(InputError, match="no two successive anchors are connected"):
        shortest_path(graph, [a, other])


def test_the_connected_graph_crosses_gaps_where_they_are_narrowest() -> None:
    left, right, far = (cloud(150, seed=number) + np.array([12 * number, 0, 0]) for number in range(3))
    z = np.concatenate([left, right, far])
    graph = connected_graph(z)
    assert graph.component.max() == 0
    edges = graph.lengths.tocoo()
    for low, high in ((0, 150), (150, 300)):
        bridges = [
            length for a, b, length in zip(edges.row, edges.col, edges.data, strict=True)
            if low <= a < low + 150 and high <= b < high + 150
        ]  # fmt: skip
        narrowest = np.linalg.norm(z[low : low + 150, None] - z[None, high : high + 150], axis=2).min()
        assert bridges == [pytest.approx(narrowest)]


def test_twins_and_small_sets() -> None:
    z = np.zeros((40, 2))
    z[20:] = 1.0
    graph = connected_graph(z)
    assert graph.component.max() == 0
    assert shortest_path(graph, [0, 39]).cost == pytest.approx(np.sqrt(2))
    assert neighbor_graph(np.array([[0.0], [1.0]])).degree.tolist() == [1, 1]


def test_large_sets_are_sampled_and_anchors_stay() -> None:
    z = cloud(3000)
    graph = neighbor_graph(z, max_points=500, always=[7, 2999])
    assert len(graph.node) in (500, 501, 502)
    assert {7, 2999} <= set(graph.node.tolist())
    with pytest.raises(InputError, match="is not in the graph"):
        shortest_path(graph, [7, int(np.setdiff1d(np.arange(3000), graph.node)[0])])


@pytest.mark.parametrize(
    ("z", "options", "says"),
    [
        (np.zeros((1, 2)), {}, "at least two particles"),
        (np.full((9, 2), np.nan), {}, "not finite"),
        (np.zeros((9, 2)), {"mean_neighbors": 12.0}, "not exceed the second"),
        (np.zeros((9, 2)), {"mean_neighbors": 0.5}, "at least 1"),
    ],
)
def test_what_has_no_graph(z: np.ndarray, options: dict[str, float], says: str) -> None:
    with pytest.raises(InputError, match=says):
        neighbor_graph(z, **options)  # type: ignore[arg-type]

"""Small groups of particles that are set apart from all others: rare states that a given number of clusters may miss.

Where a continuum is long, agglomerative clustering spends its clusters on pieces of it. A small branch of the tree is
nevertheless a state when nearly all of its particles have their nearest neighbours within the branch: an arbitrary
piece of a continuum has neighbours across its border.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list
from scipy.spatial import KDTree

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]
NEIGHBORS = 10
MOST = 0.05  # of the particles, in a group that is called small
# Of the neighbours, within the group. In few dimensions chance leaves gaps in a continuum, and groups are clean.
WITHIN = (1.0, 0.65)  # in these dimensions; between them in proportion
WITHIN_DIMENSIONS = (2.0, 4.0)
USUAL = 0.9  # quantile of other branches of about the same size
EXCEPTIONAL = 3.0  # times fewer neighbours across the border than these
SEPARATION = 1.5  # from the sibling, in mean distances within the group
NARROWEST = 1e-6  # spread of a group of equal particles, over the distance to others
DEEPEST = 0.6  # density between a group and its surroundings, in densities of the group
AROUND, FEWEST_AROUND = 3, 200  # particles around a group: so many times its own, and at least
LARGEST_QUANTILE = 0.25  # of a group may be particles that do not belong to it
AT_MOST = 200_000  # particles looked at


def groups_set_apart(
    x: NDArray[np.floating],
    sketch_label: NDArray[np.integer],
    tree: FloatArray,
    distances: FloatArray,
    min_particles: int,
    *,
    seed: int = 0,
    workers: int = 1,
) -> list[IndexArray]:
    """Branches of a tree of sketched volumes whose particles are set apart from all others.

    A branch counts when the particles at its border have most of their ten nearest neighbours in it. The border is
    where neighbours across would be expected if it were a piece of a continuum; it is the greater a share of the branch
    the more dimensions the particles fill, which is estimated from them (Levina & Bickel 2004), and at most a
    quarter is looked at, so that particles that the sketch has put there wrongly do no harm. Halves of a compact state
    have little border, but are as close to each other as within: a branch must also be farther from its sibling. Tails
    of a cloud may be thin: between a branch and the particles around it the density must have a valley. And a branch
    must stand out among others of about its size, for particles may be clumpy everywhere.

    Parameters
    ----------
    x : ndarray
        (N, L) particles in the space of volumes.
    sketch_label : ndarray
        (N,) sketched volume (0..K-1) that stands for each particle.
    tree : ndarray
        (K - 1, 4) scipy's linkage matrix.
    distances : ndarray
        (K, K) between the sketched volumes.
    min_particles : int
        Smaller branches are not looked at.
    seed : int
        Of the sample that is taken above 200,000 particles.
    workers : int
        Threads of the search for neighbours.

    Returns
    -------
    list of ndarray
        The sketched volumes (increasing) of each group; groups do not overlap, and are as large as possible.
    """
    n_all = len(x)
    if n_all > AT_MOST:
        sample = np.sort(np.random.default_rng(seed).choice(n_all, AT_MOST, replace=False))
        x, sketch_label = x[sample], sketch_label[sample]
    n, n_volumes = len(x), len(tree) + 1
    if n <= 2 * NEIGHBORS:
        return []
    distance, neighbor = KDTree(x).query(x, k=NEIGHBORS + 1, workers=workers)
    dimension = _intrinsic_dimension(distance[:, 1:])
    needed = np.interp(dimension, WITHIN_DIMENSIONS, WITHIN)
    # A branch is an interval of the leaves, so that membership is two comparisons.
    leaves = leaves_list(tree).astype(np.int64)
    rank = np.empty(n_volumes, np.int64)
    rank[leaves] = np.arange(n_volumes)
    own = rank[sketch_label]
    around = own[neighbor[:, 1:]]
    by_rank = np.argsort(own, kind="stable")
    first_row = np.searchsorted(own[by_rank], np.arange(n_volumes + 1))
    fewest = max(2 * NEIGHBORS, round(min_particles * n / n_all)) if n_all >= 20 * NEIGHBORS else NEIGHBORS
    begin, end = _intervals(tree, rank)
    sibling = np.empty((len(begin), 2), np.int64)
    for left, right in tree[:, :2].astype(np.int64):
        sibling[left], sibling[right] = (begin[right], end[right]), (begin[left], end[left])
    size = first_row[end] - first_row[begin]
    candidates = np.flatnonzero((size >= fewest) & (size <= MOST * n))
    within = np.empty(len(candidates))
    for place, node in enumerate(candidates):
        low, high = int(begin[node]), int(end[node])
        rows = by_rank[first_row[low] : first_row[high]]
        share = ((around[rows] >= low) & (around[rows] < high)).mean(axis=1)
        within[place] = np.quantile(share, _border(len(rows), dimension))
    found: list[IndexArray] = []
    taken = np.zeros(n_volumes, np.bool_)
    for place in np.argsort(-size[candidates], kind="stable"):
        node = candidates[place]
        low, high = int(begin[node]), int(end[node])
        if taken[low:high].any() or within[place] < needed:
            continue
        # What pieces of these particles look like, apart from this one and those that overlap with it.
        alike = (size[candidates] >= size[node] / 2) & (size[candidates] <= 2 * size[node])
        apart = (end[candidates] <= low) | (begin[candidates] >= high)
        usual = np.quantile(within[alike & apart], USUAL) if (alike & apart).any() else 0.0
        if 1 - within[place] > (1 - usual) / EXCEPTIONAL:
            continue
        inside = np.zeros(n, np.bool_)
        inside[by_rank[first_row[low] : first_row[high]]] = True
        far = _separation(distances, leaves[low:high], leaves[sibling[node, 0] : sibling[node, 1]]) >= SEPARATION
        if far and _valley(x, inside) <= DEEPEST:
            taken[low:high] = True
            found.append(np.sort(leaves[low:high]))
    return found


def _intervals(tree: FloatArray, rank: IndexArray) -> tuple[IndexArray, IndexArray]:
    """First leaf, and one past the last, of every node except the root, by position among the leaves."""
    n_volumes = len(rank)
    begin = np.concatenate([rank, np.zeros(len(tree), np.int64)])
    end = np.concatenate([rank + 1, np.zeros(len(tree), np.int64)])
    for number, (left, right) in enumerate(tree[:, :2].astype(np.int64)):
        begin[n_volumes + number] = min(begin[left], begin[right])
        end[n_volumes + number] = max(end[left], end[right])
    return begin[:-1], end[:-1]


def _separation(distances: FloatArray, group: IndexArray, sibling: IndexArray) -> float:
    """Mean distance between two branches over that within the first, or over the usual spacing if that is larger."""
    spacing = np.median(np.partition(distances, 1, axis=1)[:, 1])
    m = len(group)
    within = distances[np.ix_(group, group)].sum() / (m * (m - 1)) if m > 1 else 0.0
    return float(distances[np.ix_(group, sibling)].mean() / max(within, spacing, np.finfo(np.float64).tiny))


def _valley(x: NDArray[np.floating], inside: NDArray[np.bool_]) -> float:
    """Density between a group and its surroundings over that in the group: 1 for the tail of a cloud, 0 for a gap.

    Along the line from the middle of the particles nearest to the group to that of the group.
    """
    group = x[inside].astype(np.float64)
    middle = np.median(group, axis=0)
    others = x[~inside].astype(np.float64)
    square = ((others - middle) ** 2).sum(axis=1)
    n_others = min(len(others), max(FEWEST_AROUND, AROUND * len(group)))
    around = others[np.argpartition(square, n_others - 1)[:n_others]]
    direction = middle - np.median(around, axis=0)
    length = np.linalg.norm(direction)
    if not length > 0:
        return 1.0
    along, along_others = (group - middle) @ direction / length, (around - middle) @ direction / length
    width = 1.06 * max(float(along.std()), NARROWEST * float(length)) * len(group) ** -0.2
    at = np.linspace(float(np.median(along_others)), 0.0, 64)
    every = np.concatenate([along, along_others])
    density = np.exp(-0.5 * ((at[:, None] - every[None, :]) / width) ** 2).sum(axis=1)
    return float(density.min() / density[-1])


def _border(n: int, dimension: float) -> float:
    """Quantile that lies well within the border of n particles that fill a ball (the layer that neighbours reach).

    A thin layer, in few dimensions, is left by half of the border that lies at the edge of the data: the square of its
    share makes up for that.
    """
    layer = 1 - (1 - 0.5 * min(1.0, NEIGHBORS / n) ** (1 / dimension)) ** dimension
    return float(min(LARGEST_QUANTILE, layer**2 / 4))


def _intrinsic_dimension(distance: FloatArray) -> float:
    """Dimensions that particles fill locally, from distances (N, k) of nearest neighbours."""
    positive = distance[distance[:, 0] > 0]
    if len(positive) == 0:
        return 1.0
    inverse = np.log(positive[:, -1:] / positive[:, :-1]).mean()
    return float(max(1.0, 1 / inverse)) if inverse > 0 else float(distance.shape[1])

"""Agglomerative clustering of sketched volumes into conformational states (Zhong 2022, 6.2.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import squareform

from cryodrgn_ext.errors import InputError

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]
ALREADY_FOUND = 0.9
LINKAGES = ("average", "ward", "complete")


@dataclass(frozen=True)
class VolumeClusters:
    """K volumes in M clusters, numbered so that neighbours in number are similar.

    Attributes
    ----------
    label : ndarray
        (K,) int32 cluster of each volume.
    medoid : ndarray
        (M,) int64 volume of each cluster with the least mean distance to the others: its on-data volume.
    n_volumes, n_particles : ndarray
        (M,) int64.
    reassigned : ndarray
        (K,) bool: volumes of groups with too few particles to be a cluster of their own, put with the nearest.
    tree : ndarray
        (K - 1, 4) scipy's linkage matrix.
    """

    label: NDArray[np.int32]
    medoid: IndexArray
    n_volumes: IndexArray
    n_particles: IndexArray
    reassigned: NDArray[np.bool_]
    tree: FloatArray

    @property
    def n_clusters(self) -> int:
        """Number M of clusters."""
        return len(self.medoid)

    def averaging(self) -> FloatArray:
        """(M, K) weights that average the volumes of each cluster but those reassigned to it: the centroids."""
        member = (self.label[None, :] == np.arange(self.n_clusters)[:, None]) & ~self.reassigned
        weights: FloatArray = member / member.sum(axis=1, keepdims=True)
        return weights


def volume_tree(distances: FloatArray, method: str = "average", metric: str = "euclidean") -> FloatArray:
    """Merge volumes from the bottom up.

    Parameters
    ----------
    distances : ndarray
        (K, K); see :func:`cryodrgn_ext.analysis.volume_pca.volume_distances`.
    method : str
        ``average``, ``ward`` or ``complete``.
    metric : str
        What the distances are. Ward's method is about Euclidean distances; of correlations it takes
        ``sqrt(2 (1 - r))``, the Euclidean distance of standardised volumes.

    Returns
    -------
    ndarray
        (K - 1, 4) scipy's linkage matrix, leaves in optimal order.

    Raises
    ------
    InputError
        When the method is unknown or there are fewer than two volumes.
    """
    if method not in LINKAGES:
        raise InputError(f"there is no linkage '{method}'; choose among {', '.join(LINKAGES)}")
    if len(distances) < 2:
        raise InputError(f"clustering needs at least two volumes, got {len(distances)}")
    if method == "ward" and metric == "correlation":
        distances = np.sqrt(2 * distances)
    tree: FloatArray = linkage(squareform(distances, checks=False), method, optimal_ordering=True)
    return tree


def cut_tree(
    tree: FloatArray, distances: FloatArray, n_clusters: int, size: NDArray[np.integer], min_particles: int = 0
) -> VolumeClusters:
    """Cut a tree where it has ``n_clusters`` branches of at least ``min_particles`` particles.

    Branches with fewer (single outliers, which agglomerative clustering leaves for last) do not count; their volumes
    go to the cluster that is nearest on average. When there is no such cut, that with most clusters is taken.

    Parameters
    ----------
    tree : ndarray
        (K - 1, 4).
    distances : ndarray
        (K, K) those that the tree was made from.
    n_clusters : int
        Number M, at most K.
    size : ndarray
        (K,) number of particles that each volume stands for.
    min_particles : int

    Raises
    ------
    InputError
        When M is not between 1 and K, or no branch has enough particles.
    """
    n_volumes = len(distances)
    if not 1 <= n_clusters <= n_volumes:
        raise InputError(f"{n_clusters} clusters asked for, but there are {n_volumes} sketched volumes")
    if size.sum() < min_particles:
        raise InputError(f"no cluster can have {min_particles} particles: there are only {size.sum()}")
    best, most = np.zeros(n_volumes, np.int64), 0
    for branches in range(1, n_volumes + 1):
        branch = fcluster(tree, branches, "maxclust") - 1
        valid = int(np.count_nonzero(np.bincount(branch, weights=size) >= max(min_particles, 1)))
        if valid > most:
            best, most = branch, valid
        if valid >= n_clusters:
            break
    populated = np.bincount(best, weights=size) >= max(min_particles, 1)
    reassigned = ~populated[best]
    kept = np.flatnonzero(populated)
    member = best[:, None] == kept[None, :]
    mean_distance = distances @ member / member.sum(axis=0)
    label = np.where(reassigned, mean_distance.argmin(axis=1), np.searchsorted(kept, best))
    return _numbered(label, reassigned, tree, distances, size)


def split_off(
    clusters: VolumeClusters, groups: Sequence[IndexArray], distances: FloatArray, size: NDArray[np.integer]
) -> VolumeClusters:
    """Make each group of volumes one cluster of its own.

    A group that is part of one cluster is taken out of it, unless it holds nine tenths of its particles; clusters that
    lie within a group become one. A group that holds parts of several clusters is left as it is.
    """
    label, reassigned = clusters.label.astype(np.int64), clusters.reassigned.copy()
    for group in groups:
        inside = np.unique(label[group[~reassigned[group]]])
        whole = np.isin(label, inside) & ~reassigned
        found = size[whole].sum() * ALREADY_FOUND <= size[group].sum()
        if found or len(inside) == 1:
            name = label.max() + 1
            label[group], reassigned[group] = name, False
            if found:
                label[whole] = name
    label = np.unique(label, return_inverse=True)[1]
    return _numbered(label, reassigned, clusters.tree, distances, size)


def _numbered(
    label: IndexArray, reassigned: NDArray[np.bool_], tree: FloatArray, distances: FloatArray, size: NDArray[np.integer]
) -> VolumeClusters:
    """Number clusters by where their volumes first appear among the leaves, and describe them."""
    leaves = leaves_list(tree)
    label = _in_order_of_leaves(label, leaves[~reassigned[leaves]])
    n_clusters = int(label.max()) + 1
    medoid = np.empty(n_clusters, np.int64)
    for number in range(n_clusters):
        members = np.flatnonzero((label == number) & ~reassigned)
        medoid[number] = members[distances[np.ix_(members, members)].mean(axis=1).argmin()]
    return VolumeClusters(
        label=label.astype(np.int32),
        medoid=medoid,
        n_volumes=np.bincount(label, minlength=n_clusters).astype(np.int64),
        n_particles=np.bincount(label, weights=size, minlength=n_clusters).astype(np.int64),
        reassigned=reassigned,
        tree=tree,
    )


def _in_order_of_leaves(label: IndexArray, leaves: IndexArray) -> IndexArray:
    names, first = np.unique(label[leaves], return_index=True)
    number = np.empty(len(names), np.int64)
    number[names[np.argsort(first)]] = np.arange(len(names))
    renumbered: IndexArray = number[label]
    return renumbered


def default_min_particles(n_particles: int) -> int:
    """Fewest particles of a cluster unless told otherwise: one in a thousand, and at least ten."""
    return min(n_particles, max(10, round(n_particles / 1000)))

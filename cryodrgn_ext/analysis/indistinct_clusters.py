"""Clusters of latents that are one: k-means cuts as many as it is asked for, and where little else is left, noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist, squareform

from cryodrgn_ext.analysis.latents import Clustering, nearest_members

#: Clusters are joined only where they lie closer than this share of the variance of all latents would put them: beside
#: much larger differences (ice, another protein), theirs is one that k-means cut for want of anything else. Without
#: such differences nothing is joined, for many images together tell what no single one does.
NEGLIGIBLE_VARIANCE = 0.05


def join_indistinct(z: NDArray[np.floating], z_cov: NDArray[np.floating], clusters: Clustering) -> Clustering:
    """Join clusters between which no single image can tell, where the latents hold far larger differences.

    Two clusters are joined when their means are closer than the standard deviation, along the line between them, that
    noise leaves of their images' latents, and closer than a small share of the spread of all latents.

    Parameters
    ----------
    z : ndarray
        (N, q).
    z_cov : ndarray
        (N, q, q) posterior covariances.
    clusters : Clustering

    Returns
    -------
    Clustering
        In the order of the given one; itself when nothing is joined.
    """
    k, label = clusters.n_clusters, clusters.label
    means = np.stack([z[label == number].mean(axis=0) for number in range(k)]).astype(np.float64)
    distance = squareform(pdist(means))
    negligible = np.sqrt(NEGLIGIBLE_VARIANCE * float(np.var(z, axis=0, dtype=np.float64).sum()))
    covariance = [z_cov[label == number].mean(axis=0, dtype=np.float64) for number in range(k)]
    joined = np.zeros((k, k), bool)
    for i, j in zip(*np.nonzero(np.triu(distance < negligible, 1)), strict=True):
        along = (means[j] - means[i]) / max(distance[i, j], 1e-30)
        noise = along @ (covariance[i] + covariance[j]) @ along / 2.0
        joined[i, j] = distance[i, j] ** 2 < noise
    _, groups = connected_components(csr_array(joined), directed=False)
    first = np.sort(np.unique(groups, return_index=True)[1])
    if len(first) == k:
        return clusters
    number = np.argsort(np.argsort([first.tolist().index(np.flatnonzero(groups == g)[0]) for g in range(len(first))]))
    merged = number[groups][label].astype(np.int32)
    values = np.ascontiguousarray(z, np.float32)
    centers = np.stack([values[merged == one].mean(axis=0) for one in range(len(first))])
    inside = np.setdiff1d(np.arange(len(z)), clusters.apart)
    index = inside[nearest_members(values[inside], merged[inside].astype(np.int64), centers)]
    return replace(clusters, label=merged, center_index=index, center=values[index])

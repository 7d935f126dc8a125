"""Latent space at a glance: principal components, UMAP, k-means with on-data centres, outliers by |z|.

Latents are arrays (N, q), one row per particle in the order of the particles. All functions are deterministic: the
same latents and seed give the same answer.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial import KDTree

from cryodrgn_ext.errors import InputError

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]
MINI_BATCH_FROM = 200_000  # k-means in batches from this many particles on
MAD_TO_SD = 1.4826  # of a normal distribution
MOST_APART = 0.05  # of the particles, that may be too far from all others to be clusters
LEAVE_OUT_AT_MOST = 10  # times that such particles are looked for


@dataclass(frozen=True)
class PrincipalComponents:
    """Principal components of ``N`` latents.

    Attributes
    ----------
    mean : ndarray
        (q,) mean latent.
    axes : ndarray
        (q, q) unit vectors in rows, by decreasing variance; the largest entry of each is positive.
    variance : ndarray
        (q,) variance along each axis.
    projections : ndarray
        (N, q) float32 coordinates of the particles along the axes.
    """

    mean: FloatArray
    axes: FloatArray
    variance: FloatArray
    projections: NDArray[np.float32]

    @property
    def explained_variance_ratio(self) -> FloatArray:
        """(q,) share of the total variance along each axis; zeros when there is no variance at all."""
        total = self.variance.sum()
        return self.variance / total if total > 0 else np.zeros_like(self.variance)

    def latent_at(self, projections: FloatArray) -> FloatArray:
        """Latents (P, q) of points with the first ``m`` coordinates given, (P, m); the others are zero."""
        latents: FloatArray = self.mean + projections @ self.axes[: projections.shape[1]]
        return latents


@dataclass(frozen=True)
class Embedding:
    """Two-dimensional map of (a sample of) the latents.

    Attributes
    ----------
    index : ndarray
        (m,) int64 particles that were embedded, increasing.
    xy : ndarray
        (m, 2) float32.
    """

    index: IndexArray
    xy: NDArray[np.float32]


@dataclass(frozen=True)
class Clustering:
    """Partition of the latents into ``K`` clusters, numbered 0..K-1 so that neighbours in number are similar.

    Attributes
    ----------
    label : ndarray
        (N,) int32 cluster of each particle.
    center_index : ndarray
        (K,) int64 particle nearest to the mean of each cluster (the "on-data" centre, Zhong 2022, 4.4.6).
    center : ndarray
        (K, q) float32 its latents.
    apart : ndarray
        (M,) int64 particles too far from all others, and too few, to be clusters; they are in the nearest ones.
    """

    label: NDArray[np.int32]
    center_index: IndexArray
    center: NDArray[np.float32]
    apart: IndexArray = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def n_clusters(self) -> int:
        """Number K of clusters."""
        return len(self.center_index)

    @property
    def size(self) -> IndexArray:
        """(K,) number of particles in each cluster."""
        return np.bincount(self.label, minlength=self.n_clusters).astype(np.int64)


def check_latents(z: NDArray[np.floating]) -> None:
    """Raise :class:`InputError` unless ``z`` is a finite array (N, q)."""
    if z.ndim != 2 or 0 in z.shape:
        raise InputError(f"latents of shape (particles, dimensions) expected, got {z.shape}")
    finite = np.isfinite(z).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise InputError(
            f"the latents of {np.count_nonzero(~finite)} particles are not finite (first: row {row}); train again with "
            "a smaller learning rate, or remove these particles"
        )


def principal_components(z: NDArray[np.floating]) -> PrincipalComponents:
    """PCA of latents (N, q) through their covariance: linear in N."""
    check_latents(z)
    mean = z.mean(axis=0, dtype=np.float64)
    centred = z - mean
    variance, vectors = np.linalg.eigh(centred.T @ centred / len(z))
    axes = vectors.T[::-1]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    axes = axes * np.where(largest < 0, -1.0, 1.0)
    return PrincipalComponents(mean, axes, np.clip(variance[::-1], 0, None), (centred @ axes.T).astype(np.float32))


def umap_embedding(
    z: NDArray[np.floating], *, seed: int = 0, n_neighbors: int = 15, min_dist: float = 0.1, max_points: int = 20_000
) -> Embedding:
    """UMAP of latents (N, q) in two dimensions.

    Parameters
    ----------
    z : ndarray
        (N, q).
    seed : int
        Of the layout and of the sample.
    n_neighbors, min_dist : int, float
        UMAP's own parameters.
    max_points : int
        More particles than this are sampled without replacement: a picture needs no more points, and the time of
        UMAP does not then grow with N.

    Returns
    -------
    Embedding

    Raises
    ------
    InputError
        When the latents are not finite, or fewer than four.
    """
    check_latents(z)
    if len(z) < 4:
        raise InputError(f"UMAP needs at least 4 particles, got {len(z)}")
    # Imported late: they take seconds.
    from sklearn.neighbors import NearestNeighbors

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # that it cannot use Tensorflow
        from umap import UMAP
    _keep_compiled()

    index = np.arange(len(z))
    if len(z) > max_points:
        index = np.sort(np.random.default_rng(seed).choice(len(z), max_points, replace=False))
    points = np.ascontiguousarray(z[index], np.float32)
    k = min(n_neighbors, len(index) - 1)
    # Exact neighbours: for samples of this size faster than to compile UMAP's approximate search (20 s).
    distance, neighbor = NearestNeighbors(n_neighbors=k).fit(points).kneighbors(points)
    reducer = UMAP(
        n_neighbors=k,
        min_dist=min_dist,
        random_state=seed,
        n_jobs=1,
        init="spectral" if len(index) > 100 else "random",  # the eigenproblem needs more points than dimensions
        precomputed_knn=(neighbor.astype(np.int32), distance.astype(np.float32)),
        force_approximation_algorithm=True,  # else UMAP searches neighbours again below 4,096 points
    )
    with warnings.catch_warnings():
        # It says that new points cannot be placed, and how it handles unconnected parts: neither concerns a picture.
        warnings.simplefilter("ignore", UserWarning)
        xy = reducer.fit_transform(points)
    return Embedding(index, np.asarray(xy, np.float32))


def _keep_compiled() -> None:
    """Let numba keep what it compiles of UMAP, which takes 5 s in every process otherwise."""
    from umap import umap_

    for name in ("smooth_knn_dist", "compute_membership_strengths"):
        # In vain where no folder can be written to, or another version has other parts.
        with suppress(RuntimeError, AttributeError):
            getattr(umap_, name).enable_caching()


def cluster_latents(z: NDArray[np.floating], n_clusters: int, *, seed: int = 0, fewest: int = 1) -> Clustering:
    """k-means of latents (N, q), clusters ordered by hierarchical clustering of their centres (Zhong 2022, 4.4.9).

    Parameters
    ----------
    z : ndarray
        (N, q).
    n_clusters : int
        Number K of clusters.
    seed : int
    fewest : int
        Particles that a cluster needs. k-means gives a few particles far from all others clusters of their own and
        leaves the rest in one; clusters are then found without these, as long as they are few in all.

    Raises
    ------
    InputError
        When there are fewer distinct latents than clusters.
    """
    check_latents(z)
    z = np.ascontiguousarray(z, np.float32)
    if not 1 <= n_clusters <= len(z):
        raise InputError(f"{n_clusters} clusters asked for, but there are {len(z)} particles")
    if (distinct := distinct_latents(z, n_clusters)) < n_clusters:
        raise InputError(f"{n_clusters} clusters asked for, but the latents have only {distinct} distinct values")
    centers, apart = _centers(z, n_clusters, seed, fewest)
    order = order_of_centers(centers.astype(np.float64))
    centers = centers[order]
    inside = np.setdiff1d(np.arange(len(z)), apart)
    label = np.asarray(KDTree(centers).query(z)[1], np.int64)
    members = np.bincount(label[inside], minlength=len(centers))
    if not members.all():  # centres that single precision does not tell apart
        centers = centers[members > 0]
        label = np.asarray(KDTree(centers).query(z)[1], np.int64)
    center_index = inside[nearest_members(z[inside], label[inside], centers)]
    return Clustering(label.astype(np.int32), center_index, z[center_index], apart)


def distinct_latents(z: NDArray[np.floating], most: int) -> int:
    """Count distinct rows of latents (N, q), up to ``most``: where nothing was learnt, all are the same."""
    found = len(np.unique(z[: 100 * most + 1000], axis=0))
    return min(most, found if found >= most else len(np.unique(z, axis=0)))


def _centers(z: NDArray[np.float32], n_clusters: int, seed: int, fewest: int) -> tuple[NDArray[np.float32], IndexArray]:
    """Centres of k-means (K, q), none of them of fewer than ``fewest`` particles, and the particles left out."""
    inside = np.arange(len(z))
    first: NDArray[np.float32] | None = None
    for _ in range(LEAVE_OUT_AT_MOST):
        label, centers = k_means(z[inside], n_clusters, seed=seed, n_init=3)
        small = np.bincount(label) < fewest
        if not small.any():
            return centers, np.setdiff1d(np.arange(len(z)), inside)
        first = centers if first is None else first
        inside = inside[~small[label]]
        if len(inside) < (1 - MOST_APART) * len(z) or len(np.unique(z[inside], axis=0)) < n_clusters:
            break
    return (centers if first is None else first), np.empty(0, np.int64)


def k_means(
    x: NDArray[np.float32], n_clusters: int, *, seed: int, n_init: int, rounds: int | None = None
) -> tuple[IndexArray, NDArray[np.float32]]:
    """Labels (N,) and centres (K, q) of k-means, in batches for very many points.

    There are fewer centres than asked for where batches leave one empty, or where points of a few sharp states differ
    by less than single precision tells.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if len(x) >= MINI_BATCH_FROM:
            batches = 30 if rounds else 100
            fit = MiniBatchKMeans(n_clusters, random_state=seed, n_init=n_init, batch_size=16_384, max_iter=batches)
        else:
            fit = KMeans(n_clusters, random_state=seed, n_init=n_init, max_iter=rounds or 300)
        fit.fit(x)
    present, label = np.unique(fit.labels_, return_inverse=True)
    return label.astype(np.int64), fit.cluster_centers_[present].astype(np.float32)


def order_of_centers(center: FloatArray) -> IndexArray:
    """Permutation of the centres along the leaves of their average-linkage tree, beginning at the low end of PC 1."""
    if len(center) < 3:
        order = np.arange(len(center))
    else:
        order = leaves_list(linkage(center, "average", optimal_ordering=True)).astype(np.int64)
    along = principal_components(center).projections[:, 0]
    return order if along[order[0]] <= along[order[-1]] else order[::-1].copy()


def nearest_members(z: NDArray[np.float32], label: NDArray[np.int64], center: NDArray[np.float32]) -> IndexArray:
    """(K,) member of each cluster that is nearest to its centre."""
    distance = ((z - center[label]) ** 2).sum(axis=1)
    by_cluster_then_distance = np.lexsort((distance, label))
    first = np.searchsorted(label[by_cluster_then_distance], np.arange(len(center)))
    return by_cluster_then_distance[first].astype(np.int64)


def nearest_particles(z: NDArray[np.floating], points: NDArray[np.floating]) -> IndexArray:
    """(P,) particle whose latents are nearest to each of the ``points`` (P, q)."""
    return np.asarray(KDTree(z).query(points)[1], np.int64)


def spread_places(z: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Places (K, q) spread as latents (N, q) are: on-data centres of k-means, at most ``count``."""
    distinct = np.unique(z, axis=0)
    if len(distinct) <= count:
        return distinct
    return np.unique(cluster_latents(z, count, seed=seed).center, axis=0)


def latent_outliers(z: NDArray[np.floating], threshold_sd: float = 5.0) -> IndexArray:
    """Particles whose latents are far longer than usual (Zhong 2022, 4.4.10), as indices in increasing order.

    Those with ``|z - median(z)|`` more than ``threshold_sd`` robust standard deviations (1.4826 times the median
    absolute deviation) above its median.
    """
    check_latents(z)
    length, middle, spread = latent_lengths(z)
    return np.flatnonzero(length > middle + threshold_sd * spread) if spread > 0 else np.empty(0, np.int64)


def latent_lengths(z: NDArray[np.floating]) -> tuple[FloatArray, float, float]:
    """Distances (N,) of latents (N, q) from their median, the median of those, and their robust standard deviation."""
    length: FloatArray = np.linalg.norm(z - np.median(z, axis=0), axis=1)
    middle = np.median(length)
    return length, float(middle), float(MAD_TO_SD * np.median(np.abs(length - middle)))

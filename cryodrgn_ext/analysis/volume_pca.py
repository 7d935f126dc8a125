"""Principal components and distances of volumes, from inner products alone (Zhong 2022, 6.2.5).

Volumes are rows of weights W over R maps whose Gram matrix within the mask is G, see :mod:`.volume_basis`. With the
mean taken off, the inner products of K volumes are W G Wᵀ; its eigenvectors are the coordinates of the volumes along
the principal components, and the components themselves are sums over the same maps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError

FloatArray = NDArray[np.float64]
METRICS = ("euclidean", "correlation")
RELATIVE_RANK = 1e-10  # of the largest variance: smaller ones are rounding


@dataclass(frozen=True)
class VolumePca:
    """Principal components of K volumes.

    Attributes
    ----------
    mean_weights : ndarray
        (R,) the mean volume as a sum over the maps of the basis.
    axes : ndarray
        (L, R) eigenvolumes as sums over the maps: orthonormal within the mask, by decreasing variance.
    variance : ndarray
        (L,) variance of the volumes along each, summed over voxels.
    total_variance : float
        Of the volumes in all directions.
    coordinates : ndarray
        (K, L) of the volumes; the largest of each column is positive.
    """

    mean_weights: FloatArray
    axes: FloatArray
    variance: FloatArray
    total_variance: float
    coordinates: FloatArray

    @property
    def n_components(self) -> int:
        """Number L of components."""
        return len(self.variance)

    @property
    def explained_variance_ratio(self) -> FloatArray:
        """(L,) share of the total variance along each component."""
        return self.variance / self.total_variance

    def project(self, weights: FloatArray, gram: FloatArray) -> FloatArray:
        """Coordinates (P, L) of volumes given as weights (P, R) over the maps, exactly."""
        coordinates: FloatArray = (weights - self.mean_weights) @ (gram @ self.axes.T)
        return coordinates

    def first(self, n: int) -> VolumePca:
        """The first ``n`` components (all of them if there are not more)."""
        return VolumePca(
            self.mean_weights, self.axes[:n], self.variance[:n], self.total_variance, self.coordinates[:, :n]
        )


def volume_pca(gram: FloatArray, weights: FloatArray) -> VolumePca:
    """Principal components of the volumes with ``weights`` (K, R) over maps with Gram matrix ``gram`` (R, R).

    All components are returned whose variance is more than rounding.

    Raises
    ------
    InputError
        When there are fewer than two volumes, or all are the same.
    """
    if len(weights) < 2:
        raise InputError(f"principal components need at least two volumes, got {len(weights)}")
    mean = weights.mean(axis=0)
    centred = weights - mean
    inner = centred @ gram @ centred.T
    values, vectors = np.linalg.eigh((inner + inner.T) / 2)
    values, vectors = values[::-1], vectors[:, ::-1]
    # Rounding is relative to the volumes themselves, which are much larger than their differences.
    noise = max(
        RELATIVE_RANK * values[0], 1e-14 * float(np.abs(np.einsum("kr,rs,ks->k", weights, gram, weights)).max())
    )
    rank = int(np.count_nonzero(values > noise))
    if rank == 0:
        raise InputError("all sketched volumes are the same within the mask: there is no landscape to analyse")
    values, vectors = values[:rank], vectors[:, :rank]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    vectors = vectors * np.where(largest < 0, -1.0, 1.0)
    length = np.sqrt(values)
    return VolumePca(
        mean_weights=mean,
        axes=(vectors / length).T @ centred,
        variance=values / len(weights),
        total_variance=float(values.sum() / len(weights)),
        coordinates=vectors * length,
    )


def volume_distances(
    gram: FloatArray, voxel_sums: FloatArray, n_voxels: int, weights: FloatArray, metric: str = "euclidean"
) -> FloatArray:
    """Distances (K, K) between volumes within the mask.

    Parameters
    ----------
    gram : ndarray
        (R, R) inner products of the maps.
    voxel_sums : ndarray
        (R,) their sums over the n voxels of the mask.
    n_voxels : int
    weights : ndarray
        (K, R).
    metric : str
        ``euclidean``, or ``correlation``: 1 - Pearson's correlation over the voxels, which does not see scale and
        offset.

    Raises
    ------
    InputError
        When the metric is unknown, or a volume is constant within the mask and has no correlation.
    """
    if metric not in METRICS:
        raise InputError(f"there is no metric '{metric}' of volumes; choose among {', '.join(METRICS)}")
    if metric == "euclidean":
        weights = weights - weights.mean(axis=0)  # less rounding; distances stay
        inner = weights @ gram @ weights.T
        square = np.diagonal(inner)
        distances = np.sqrt(np.clip(square[:, None] + square[None, :] - 2 * inner, 0, None))
    else:
        sums = weights @ voxel_sums
        inner = weights @ gram @ weights.T
        square = np.diagonal(inner)
        inner = inner - np.outer(sums, sums) / n_voxels
        variance = np.diagonal(inner)
        if not (variance > 1e-12 * square).all():
            constant = int(np.argmin(variance / np.maximum(square, np.finfo(np.float64).tiny)))
            raise InputError(f"volume {constant} is constant within the mask: the correlation metric cannot be used")
        sd = np.sqrt(variance)
        distances = np.clip(1 - inner / np.outer(sd, sd), 0, 2)
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0.0)
    return distances

"""Agreement with a known truth: how well latents predict it, and how well volumes resemble it image by image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.fsc import fsc
from cryodrgn_ext.fourier.masks import cosine_edge

FloatArray = NDArray[np.float64]
MOVING_FRACTION = 0.1  # of the largest standard deviation over the true volumes
MOVING_DILATION_PX = 1
MOVING_EDGE_PX = 3


@dataclass(frozen=True)
class TruthPrediction:
    """How well latents predict a true coordinate.

    Attributes
    ----------
    predicted : ndarray
        (N,) prediction of each particle from other particles.
    spearman : float
        Rank correlation of prediction and truth.
    r2 : float
        Share of the variance of the truth that is predicted.
    """

    predicted: FloatArray
    spearman: float
    r2: float


def predict_truth(
    z: NDArray[np.floating], truth: NDArray[np.floating], n_neighbors: int = 50, n_folds: int = 5
) -> TruthPrediction:
    """Predict a true coordinate (N,) from latents (N, q) by nearest neighbours, cross-validated.

    Each of ``n_folds`` contiguous fifths of the particles is predicted as the mean truth of its ``n_neighbors``
    nearest neighbours among the others. A truth that does not vary gives a correlation and an R2 of nan.

    Raises
    ------
    InputError
        When lengths differ or there are too few particles.
    """
    predicted = predict_from_neighbors(z, truth.astype(np.float64), n_neighbors, n_folds)
    if np.ptp(truth) == 0:
        return TruthPrediction(predicted, np.nan, np.nan)
    from scipy.stats import spearmanr

    rank = float(spearmanr(predicted, truth)[0]) if np.ptp(predicted) > 0 else 0.0
    return TruthPrediction(predicted, rank, float(1 - ((predicted - truth) ** 2).mean() / truth.var()))


def predict_from_neighbors(
    z: NDArray[np.floating], values: FloatArray, n_neighbors: int = 50, n_folds: int = 5
) -> FloatArray:
    """Predict values (N,) or (N, m) from latents (N, q) of other particles; see :func:`predict_truth`.

    Raises
    ------
    InputError
        When lengths differ or there are too few particles.
    """
    n = len(values)
    if len(z) != n:
        raise InputError(f"{len(z)} latents but {n} true values; both must be in the order of the particles")
    if n < 2 * n_folds:
        raise InputError(f"at least {2 * n_folds} particles are needed to compare latents with the truth, got {n}")
    predicted = np.empty_like(values)
    for fold in np.array_split(np.arange(n), n_folds):
        others = np.setdiff1d(np.arange(n), fold)
        k = min(n_neighbors, len(others))
        neighbors = KDTree(z[others]).query(z[fold], k=k)[1].reshape(len(fold), k)
        predicted[fold] = values[others][neighbors].mean(axis=1)
    return predicted


def evaluation_particles(state: NDArray[np.generic], n: int = 50) -> NDArray[np.int64]:
    """Particles (n,) spread evenly over the sorted true states (N,), for measures that render one volume each."""
    order = np.argsort(state, kind="stable")
    return order[np.linspace(0, len(order) - 1, min(n, len(order))).astype(np.int64)]


def moving_region(true_volumes: NDArray[np.floating]) -> NDArray[np.float32]:
    """Soft mask (D, D, D) of where true volumes (S, D, D, D) differ.

    Where their standard deviation exceeds a tenth of its maximum, dilated by one voxel, with a cosine edge of three.
    """
    spread = true_volumes.std(axis=0)
    if not spread.max() > 0:
        raise InputError("the true volumes are all alike, so that there is no moving region to compare in")
    core = ndimage.binary_dilation(spread > MOVING_FRACTION * spread.max(), iterations=MOVING_DILATION_PX)
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(~core)
    return cosine_edge(distance, 0.0, MOVING_EDGE_PX).astype(np.float32)


def fsc_area(curve: FloatArray) -> float:
    """Mean of an FSC curve over the shells 1..Nyquist: 1 for identical volumes."""
    return float(np.mean(curve[1:]))


def per_image_fsc_area(
    volumes: Iterable[NDArray[np.floating]],
    true_volumes: NDArray[np.floating],
    states: NDArray[np.integer],
    mask: NDArray[np.floating] | None = None,
    shells: int | None = None,
) -> FloatArray:
    """Area under the FSC of each image's volume with its own true volume.

    Parameters
    ----------
    volumes : iterable of ndarray
        P volumes (D, D, D), those that the model shows for P images; consumed one at a time.
    true_volumes : ndarray
        (S, D, D, D).
    states : ndarray
        (P,) true state of each image.
    mask : ndarray, optional
        (D, D, D) applied to both, e.g. :func:`moving_region`.
    shells : int, optional
        Of shells 1 to this one; to Nyquist if not given.

    Returns
    -------
    ndarray
        (P,) areas.
    """
    chosen_mask = None if mask is None else torch.from_numpy(np.asarray(mask, np.float64))
    truths = {int(s): torch.from_numpy(true_volumes[s].astype(np.float64)) for s in np.unique(states)}
    curves = (
        np.asarray(fsc(torch.from_numpy(np.asarray(volume, np.float64)), truths[int(state)], chosen_mask))
        for volume, state in zip(volumes, states, strict=True)
    )
    return np.array([fsc_area(curve if shells is None else curve[: shells + 1]) for curve in curves])

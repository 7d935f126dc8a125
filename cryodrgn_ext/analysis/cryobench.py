"""The metrics of CryoBench, by its own definitions, so that figures can be held against the published ones.

Jeon et al., "CryoBench: Diverse and challenging datasets for the heterogeneity problem in cryo-EM", NeurIPS 2024
(arXiv:2408.05526), and its scripts (github.com/ml-struct-bio/CryoBench: metrics/fsc, metrics/neighborhood_similarity,
metrics/information_imbalance). Written from these definitions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

FloatArray = NDArray[np.float64]
SUBSETS = 5  # neighbourhoods are compared within every fifth particle, and averaged
MOST_POINTS = 2000
JITTER = 1e-6  # of the truth's spread: equal truths have no nearest neighbour


def fsc_curve(volume: NDArray[np.floating], truth: NDArray[np.floating]) -> FloatArray:
    """(D / 2 - 1,) FSC of two volumes (D, D, D) without a mask: shell i = 1 .. D/2 - 1 holds i - 1 <= |k| < i."""
    box = len(volume)
    k = np.fft.fftfreq(box, 1 / box)
    norm = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None, :] ** 2)
    shell = np.floor(norm).astype(np.int64) + 1
    inside = shell < box // 2
    a, b = np.fft.fftn(volume)[inside], np.fft.fftn(truth)[inside]

    def sums(values: FloatArray) -> FloatArray:
        total: FloatArray = np.bincount(shell[inside], values, box // 2)[1:].astype(np.float64)
        return total

    power = np.sqrt(sums(np.abs(a) ** 2) * sums(np.abs(b) ** 2))
    return np.divide(sums((a * b.conj()).real), power, out=np.ones_like(power), where=power > 0)


def curve_area(curve: FloatArray) -> float:
    """Area under a curve (D / 2 - 1,) of :func:`fsc_curve`.

    The curve begins with 1 at frequency 0; its magnitude is integrated over the frequency in cycles per pixel by the
    trapezoid rule, so that identical volumes have (D/2 - 1) / D, which is 0.484 in a box of 64 and 0.492 in one of 128.
    """
    heights = np.abs(np.concatenate([[1.0], curve]))
    return float((heights[1:] + heights[:-1]).sum() / (4 * (len(curve) + 1)))


def fsc_auc(volume: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Area under the FSC of an image's volume with its true volume, without a mask; see :func:`curve_area`."""
    return curve_area(fsc_curve(volume, truth))


def perfect_auc(box: int) -> float:
    """:func:`fsc_auc` of identical volumes."""
    return (box // 2 - 1) / box


def neighbourhood_similarity(z: NDArray[np.floating], truth: FloatArray, share: float = 0.1) -> float:
    """Percentage of a particle's nearest neighbours by truth that are among its nearest by latents.

    Parameters
    ----------
    z : ndarray
        (N, q) latents.
    truth : ndarray
        (N, L) true coordinates.
    share : float
        Size of the neighbourhood as a fraction of the particles that are compared.
    """
    found = []
    for start in range(SUBSETS):
        a, b = z[start::SUBSETS][:MOST_POINTS], truth[start::SUBSETS][:MOST_POINTS]
        k = max(1, round(share * len(a)))
        near = [_ranks(points) <= k for points in (a.astype(np.float64), b)]
        found.append(((near[0] & near[1]).sum() - len(a)) / (k * len(a)))
    return float(100 * np.mean(found))


def information_imbalance(z: NDArray[np.floating], truth: FloatArray, seed: int = 0) -> tuple[float, float]:
    """How badly neighbours in one space tell those in the other: from latents to truth, and from truth to latents.

    2 / N times the mean rank, in the second space, of the nearest neighbour in the first: 0 when it is nearest there
    too, 1 when it is anywhere (Glielmo et al., PNAS Nexus 2022). Truths get a little noise, so that none are equal.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(z))[:MOST_POINTS])
    spread = np.maximum(np.ptp(truth, axis=0), 1e-12)
    noisy = truth[rows] + JITTER * spread * rng.standard_normal((len(rows), truth.shape[1]))
    ranks = [_ranks(points) for points in (z[rows].astype(np.float64), noisy)]

    def imbalance(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
        nearest = np.argmax(first == 1, axis=1)
        return float(2 / len(rows) * second[np.arange(len(rows)), nearest].mean())

    return imbalance(ranks[0], ranks[1]), imbalance(ranks[1], ranks[0])


def _ranks(points: FloatArray) -> NDArray[np.int64]:
    """(N, N) rank of each other point by distance from each point; 0 is the point itself."""
    distance = cdist(points, points)
    np.fill_diagonal(distance, -1)
    order = np.argsort(distance, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(len(points))[None], axis=1)
    return ranks

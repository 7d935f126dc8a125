"""Replicate runs on the same particles: do latents and clusterings agree (Zhong 2022, 4.4.10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from cryodrgn_ext.analysis.agreement import predict_from_neighbors
from cryodrgn_ext.errors import InputError

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]
COMPARE_AT_MOST = 50_000


@dataclass(frozen=True)
class Consistency:
    """Agreement of two clusterings of the same particles.

    Attributes
    ----------
    confusion : ndarray
        (K1, K2) number of particles in each pair of clusters, before matching.
    partner : ndarray
        (K1,) cluster of the second that each cluster of the first is matched with; -1 for those left over.
    percentage : float
        Particles in matched pairs, in percent.
    adjusted_rand : float
        Adjusted Rand index (Hubert & Arabie 1985): 1 for the same partition, about 0 for unrelated ones. It needs no
        matching.
    """

    confusion: IndexArray
    partner: IndexArray
    percentage: float
    adjusted_rand: float

    def relabel(self, second: NDArray[np.integer]) -> NDArray[np.int32]:
        """Labels of the second clustering in the numbers of the first; clusters without a partner follow after."""
        n_first, n_second = self.confusion.shape
        number = np.full(n_second, -1, np.int32)
        matched = np.flatnonzero(self.partner >= 0)
        number[self.partner[matched]] = matched
        left = np.flatnonzero(number < 0)
        number[left] = n_first + np.arange(len(left), dtype=np.int32)
        renamed: NDArray[np.int32] = number[second]
        return renamed


def compare_clusterings(first: NDArray[np.integer], second: NDArray[np.integer]) -> Consistency:
    """Match the clusters of two clusterings one to one, so that most particles agree.

    The matching is the best possible (Hungarian algorithm; Kuhn 1955), for any two numbers of clusters.

    Parameters
    ----------
    first, second : ndarray
        (N,) labels from 0 of the same particles in the same order.

    Raises
    ------
    InputError
        When the lengths differ, there are no particles, or a label is negative.
    """
    if first.shape != second.shape or first.ndim != 1 or len(first) == 0:
        raise InputError(
            f"two clusterings of the same particles expected, got labels of the shapes {first.shape} and {second.shape}"
        )
    if min(first.min(), second.min()) < 0:
        raise InputError("a clustering has negative labels: leave particles without a cluster out of both")
    shape = int(first.max()) + 1, int(second.max()) + 1
    pair = first.astype(np.int64) * shape[1] + second
    confusion = np.bincount(pair, minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64)
    rows, columns = linear_sum_assignment(confusion, maximize=True)
    partner = np.full(shape[0], -1, np.int64)
    partner[rows] = columns
    agreeing = int(confusion[rows, columns].sum())
    return Consistency(confusion, partner, 100.0 * agreeing / len(first), _adjusted_rand(confusion))


def _adjusted_rand(confusion: IndexArray) -> float:
    def pairs(counts: IndexArray) -> float:
        many = counts.astype(np.float64)
        return float((many * (many - 1) / 2).sum())

    together, rows, columns = pairs(confusion), pairs(confusion.sum(1)), pairs(confusion.sum(0))
    n = confusion.sum()
    expected = rows * columns / max(n * (n - 1) / 2, 1)
    highest = (rows + columns) / 2
    return 1.0 if highest == expected else (together - expected) / (highest - expected)


@dataclass(frozen=True)
class LatentAgreement:
    """How much of one run's latents the other's tell.

    Attributes
    ----------
    linear : float
        Share of the variance of the second that is a linear function of the first.
    neighbors : float
        Share of it that is predicted, for particles left out, as the mean of the nearest neighbours in the first: any
        smooth function, at the price of some noise. Near 0 for unrelated latents, and then also below.
    """

    linear: float
    neighbors: float


def compare_latents(first: NDArray[np.floating], second: NDArray[np.floating], seed: int = 0) -> LatentAgreement:
    """Tell how well latents (N, q) of a run predict those (N, p) of another run of the same particles.

    Axes, signs and scales of latents differ between runs, so that they are not compared number by number. From
    50,000 particles on a sample of so many is compared.

    Raises
    ------
    InputError
        When the lengths differ, or there are too few particles.
    """
    if len(first) != len(second):
        raise InputError(f"{len(first)} latents of one run but {len(second)} of the other: common particles expected")
    # In random order: neighbours are left out by fifths, and rows of one micrograph may be alike.
    order = np.random.default_rng(seed).permutation(len(first))[:COMPARE_AT_MOST]
    a, b = (z[order].astype(np.float64) for z in (first, second))
    total = float(((b - b.mean(axis=0)) ** 2).sum())
    if not total > 0:
        return LatentAgreement(0.0, 0.0)
    design = np.hstack([np.ones((len(a), 1)), a])
    residual = b - design @ np.linalg.lstsq(design, b, rcond=None)[0]
    missed = b - predict_from_neighbors(a, b)
    return LatentAgreement(1 - float((residual**2).sum()) / total, 1 - float((missed**2).sum()) / total)


@dataclass(frozen=True)
class RunComparison:
    """Agreement of R runs on N common particles.

    Attributes
    ----------
    adjusted_rand : ndarray
        (R, R) adjusted Rand index of each pair of clusterings.
    percentage : ndarray
        (R, R) particles in matched clusters, in percent.
    linear, neighbors : ndarray
        (R, R) share of the variance of the latents of run j that those of run i tell; see :class:`LatentAgreement`.
    label : ndarray
        (N, R) int32 cluster in each run, in the numbers of the first.
    """

    adjusted_rand: FloatArray
    percentage: FloatArray
    linear: FloatArray
    neighbors: FloatArray
    label: NDArray[np.int32]

    @property
    def agreeing(self) -> NDArray[np.bool_]:
        """(N,) Whether all runs put a particle into matched clusters."""
        same: NDArray[np.bool_] = (self.label == self.label[:, :1]).all(axis=1)
        return same

    @property
    def votes(self) -> NDArray[np.int32]:
        """(N,) Number of runs, from 1 to R, that put a particle where the first one does."""
        count: NDArray[np.int32] = (self.label == self.label[:, :1]).sum(axis=1, dtype=np.int32)
        return count


def compare_runs(
    latents: Sequence[NDArray[np.floating]], labels: Sequence[NDArray[np.integer]], seed: int = 0
) -> RunComparison:
    """Compare latents (N, q) and clusterings (N,) of runs on common particles in a common order, pair by pair.

    Raises
    ------
    InputError
        See :func:`compare_clusterings` and :func:`compare_latents`.
    """
    count = len(latents)
    rand, percentage, linear, neighbors = np.ones((4, count, count))
    percentage *= 100.0
    renumbered = [labels[0].astype(np.int32)]
    for i in range(count):
        for j in range(count):
            if i == j:
                continue
            agreement = compare_latents(latents[i], latents[j], seed)
            linear[i, j], neighbors[i, j] = agreement.linear, agreement.neighbors
            if i < j:
                found = compare_clusterings(labels[i], labels[j])
                rand[i, j] = rand[j, i] = found.adjusted_rand
                percentage[i, j] = percentage[j, i] = found.percentage
                if i == 0:
                    renumbered.append(found.relabel(labels[j]))
    return RunComparison(rand, percentage, linear, neighbors, np.stack(renumbered, axis=1))

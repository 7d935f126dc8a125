"""Gaussian mixtures of latents, and the outliers that they show (Zhong 2022, 4.4.10)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from cryodrgn_ext.analysis.latents import check_latents, latent_lengths, order_of_centers
from cryodrgn_ext.errors import InputError

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]
FIT_AT_MOST = 100_000  # a mixture of so many particles is not changed by more
PARTICLES_PER_BLOCK = 1 << 16
RELATIVE_FLOOR = 1e-6  # of the variance, added to every component's


@dataclass(frozen=True)
class Mixture:
    """A mixture of K full-covariance Gaussians, components ordered so that neighbours in number are similar.

    Attributes
    ----------
    label : ndarray
        (N,) int32, the most probable component of each particle.
    probability : ndarray
        (N,) float32, its posterior probability.
    distance : ndarray
        (N,) float32, Mahalanobis distance of each particle from its component.
    weight : ndarray
        (K,) share of each component.
    mean : ndarray
        (K, q).
    covariance : ndarray
        (K, q, q).
    """

    label: NDArray[np.int32]
    probability: NDArray[np.float32]
    distance: NDArray[np.float32]
    weight: FloatArray
    mean: FloatArray
    covariance: FloatArray

    @property
    def n_components(self) -> int:
        """Number K of components."""
        return len(self.weight)

    @property
    def size(self) -> IndexArray:
        """(K,) number of particles in each component."""
        return np.bincount(self.label, minlength=self.n_components).astype(np.int64)


def fit_mixture(z: NDArray[np.floating], n_components: int = 5, *, seed: int = 0) -> Mixture:
    """Fit a Gaussian mixture to latents (N, q) and assign every particle.

    Above 100,000 particles the fit uses a random sample of that size; the assignment is of all.

    Parameters
    ----------
    z : ndarray
        (N, q).
    n_components : int
        Number K of components; 5 in Zhong 2022, 4.4.10.
    seed : int

    Raises
    ------
    InputError
        When the latents are not finite, or too few for K covariances.
    """
    from sklearn.mixture import GaussianMixture

    check_latents(z)
    n, q = z.shape
    if not 1 <= n_components <= n // (q + 1):
        raise InputError(
            f"{n_components} mixture components of {q} dimensions need at least {max(1, n_components) * (q + 1)} "
            f"particles, and at least one component is needed; there are {n} particles"
        )
    sample = z
    if n > FIT_AT_MOST:
        sample = z[np.sort(np.random.default_rng(seed).choice(n, FIT_AT_MOST, replace=False))]
    sample = sample.astype(np.float64)
    scale = sample.var(axis=0).mean()
    if not scale > 0:
        raise InputError("all latents are the same: there is nothing to divide into components")
    model = GaussianMixture(
        n_components, covariance_type="full", reg_covar=RELATIVE_FLOOR * scale, random_state=seed, max_iter=500,
        init_params="k-means++", n_init=3,
    ).fit(sample)  # fmt: skip
    order = order_of_centers(model.means_)
    weight, mean, covariance = model.weights_[order], model.means_[order], model.covariances_[order]
    label, probability, distance = _assign(z, weight, mean, covariance)
    return Mixture(label, probability, distance, weight, mean, covariance)


def _assign(
    z: NDArray[np.floating], weight: FloatArray, mean: FloatArray, covariance: FloatArray
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    whitening = np.linalg.inv(np.linalg.cholesky(covariance))
    log_constant = np.log(weight) + np.log(np.abs(np.diagonal(whitening, axis1=1, axis2=2))).sum(axis=1)
    label = np.empty(len(z), np.int32)
    probability, distance = np.empty(len(z), np.float32), np.empty(len(z), np.float32)
    for start in range(0, len(z), PARTICLES_PER_BLOCK):
        part = slice(start, start + PARTICLES_PER_BLOCK)
        block = z[part].astype(np.float64)
        squared = np.stack([(((block - m) @ w.T) ** 2).sum(axis=1) for m, w in zip(mean, whitening, strict=True)], 1)
        log_joint = log_constant - 0.5 * squared
        best = log_joint.argmax(axis=1)
        top = np.take_along_axis(log_joint, best[:, None], axis=1)
        label[part] = best
        probability[part] = 1 / np.exp(log_joint - top).sum(axis=1)
        distance[part] = np.sqrt(np.take_along_axis(squared, best[:, None], axis=1)[:, 0])
    return label, probability, distance


def outlier_components(z: NDArray[np.floating], mixture: Mixture, threshold_sd: float = 3.0) -> IndexArray:
    """Components whose latents are unusually long, increasing (the "outlier cluster" of Zhong 2022, 4.4.10).

    Those whose median ``|z - median(z)|`` lies more than ``threshold_sd`` robust standard deviations above that of
    all particles, and that hold less than half of the particles. Use :func:`select_labels` for their particles.
    """
    length, middle, spread = latent_lengths(z)
    found = [
        number
        for number in range(mixture.n_components)
        if 0 < mixture.size[number] < len(z) / 2
        and np.median(length[mixture.label == number]) > middle + threshold_sd * spread
    ]
    return np.array(found, np.int64)


def mixture_outliers(mixture: Mixture, false_alarms: float = 1e-4) -> IndexArray:
    """Particles too far from their own component to belong to it, as indices in increasing order.

    Parameters
    ----------
    mixture : Mixture
    false_alarms : float
        Share of the particles of a true Gaussian that would be called outliers.
    """
    limit = np.sqrt(chdtri(mixture.mean.shape[1], false_alarms))
    return np.flatnonzero(mixture.distance > limit)

"""Clusters that k-means cut out of noise are one again; real ones stay, however small beside the noise of an image."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cryodrgn_ext.analysis.indistinct_clusters import join_indistinct
from cryodrgn_ext.analysis.latents import cluster_latents

N, Q = 2000, 3
Latents = tuple[NDArray[np.float32], NDArray[np.float32]]


def latents(truth: NDArray[np.float64], spread: float, noise: float) -> Latents:
    """Latents about a truth (N, q), and covariances that say how uncertain each is."""
    z = truth + np.random.default_rng(1).normal(scale=spread, size=truth.shape)
    return z.astype(np.float32), np.broadcast_to(noise**2 * np.eye(Q, dtype=np.float32), (N, Q, Q)).copy()


def far_away(share: float = 0.2, by: float = 3.0) -> NDArray[np.float64]:
    truth = np.zeros((N, Q))
    truth[: int(share * N), 0] = by
    return truth


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("k", [2, 4, 6])
def test_what_k_means_cut_out_of_noise_is_one_state(share: float, k: int) -> None:
    z, covariance = latents(far_away(share), 0.06, 0.12)
    found = join_indistinct(z, covariance, cluster_latents(z, k, seed=0))
    assert found.n_clusters == 2
    foreign = np.arange(N) < int(share * N)
    assert {tuple(np.unique(found.label[foreign])), tuple(np.unique(found.label[~foreign]))} == {(0,), (1,)}
    assert np.array_equal(found.label[found.center_index], [0, 1])


def test_without_larger_differences_nothing_is_joined() -> None:
    z, covariance = latents(np.zeros((N, Q)), 0.06, 1.0)
    clusters = cluster_latents(z, 4, seed=0)
    assert join_indistinct(z, covariance, clusters) is clusters


def test_a_motion_beside_ice_keeps_its_states() -> None:
    truth = far_away()
    truth[N // 5 :, 1] = np.random.default_rng(2).uniform(-0.6, 0.6, N - N // 5)
    z, covariance = latents(truth, 0.06, 0.12)
    found = join_indistinct(z, covariance, cluster_latents(z, 4, seed=0))
    main = found.label[N // 5 :]
    assert len(np.unique(main)) >= 3
    order = np.argsort([z[N // 5 :][main == one, 1].mean() for one in np.unique(main)])
    assert len(order) == found.n_clusters - 1

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.metrics import adjusted_rand_score

from cryodrgn_ext.analysis.mixtures import fit_mixture, mixture_outliers, outlier_components
from cryodrgn_ext.analysis.selection import select_labels
from cryodrgn_ext.errors import InputError

MEANS = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 7.0]])
# Long and thin: k-means would cut these across.
COVARIANCES = np.array([[[4.0, 0.0], [0.0, 0.05]], [[0.1, 0.0], [0.0, 3.0]], [[1.0, 0.9], [0.9, 1.0]]])


def cloud(seed: int, sizes: tuple[int, ...] = (600, 300, 300)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    parts = [rng.multivariate_normal(m, c, n) for m, c, n in zip(MEANS, COVARIANCES, sizes, strict=True)]
    label = np.repeat(np.arange(len(sizes)), sizes)
    order = rng.permutation(len(label))
    return np.concatenate(parts)[order].astype(np.float32), label[order]


@pytest.mark.parametrize("seed", range(3))
def test_elongated_components_are_found(seed: int) -> None:
    z, truth = cloud(seed)
    mixture = fit_mixture(z, 3, seed=seed)
    assert adjusted_rand_score(truth, mixture.label) > 0.97
    nearest = np.linalg.norm(MEANS[:, None] - mixture.mean[None], axis=2).argmin(axis=1)
    np.testing.assert_allclose(mixture.covariance[nearest], COVARIANCES, atol=0.6)
    np.testing.assert_allclose(mixture.weight[nearest], [0.5, 0.25, 0.25], atol=0.03)


def test_assignment_agrees_with_scipy() -> None:
    z, _ = cloud(5)
    mixture = fit_mixture(z, 3)
    density = np.stack(
        [
            weight * multivariate_normal(mean, covariance).pdf(z)
            for weight, mean, covariance in zip(mixture.weight, mixture.mean, mixture.covariance, strict=True)
        ],
        axis=1,
    )
    assert np.array_equal(density.argmax(axis=1), mixture.label)
    np.testing.assert_allclose(density.max(axis=1) / density.sum(axis=1), mixture.probability, rtol=1e-4)
    row = 17
    offset = z[row] - mixture.mean[mixture.label[row]]
    squared = offset @ np.linalg.solve(mixture.covariance[mixture.label[row]], offset)
    assert mixture.distance[row] == pytest.approx(np.sqrt(squared), rel=1e-4)


def test_same_seed_same_answer() -> None:
    z, _ = cloud(1)
    assert np.array_equal(fit_mixture(z, 4, seed=3).label, fit_mixture(z, 4, seed=3).label)


def test_the_outlier_component_is_the_one_of_long_latents() -> None:
    rng = np.random.default_rng(0)
    good = rng.normal(size=(2000, 4))
    junk = rng.normal(size=(150, 4)) * 2 + 12
    z = np.concatenate([good, junk]).astype(np.float32)
    mixture = fit_mixture(z, 4)
    outliers = select_labels(mixture.label, outlier_components(z, mixture).tolist())
    assert set(range(2000, 2150)) == set(outliers.tolist())
    assert len(outlier_components(good, fit_mixture(good, 4))) == 0


def test_particles_far_from_every_component() -> None:
    z, _ = cloud(2)
    planted = [3, 400, 900]
    z[planted] = [[40.0, 40.0], [-30.0, 10.0], [20.0, -25.0]]
    outliers = mixture_outliers(fit_mixture(z, 3))
    assert set(planted) <= set(outliers.tolist())
    assert len(outliers) <= 12


@pytest.mark.parametrize(
    ("z", "components", "says"),
    [
        (np.zeros((10, 2)), 4, "at least 12 particles"),
        (np.zeros((10, 2)), 0, "at least one component"),
        (np.zeros((100, 2)), 2, "all latents are the same"),
        (np.full((100, 2), np.nan), 2, "not finite"),
    ],
)
def test_what_cannot_be_fitted(z: np.ndarray, components: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        fit_mixture(z, components)

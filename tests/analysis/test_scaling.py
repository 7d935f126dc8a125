from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from cryodrgn_ext.analysis.scaling import multidimensional_scaling, stress


def test_a_plane_is_recovered() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(60, 2))
    distances = squareform(pdist(points))
    found = multidimensional_scaling(distances, points + 0.5 * rng.normal(size=(60, 2)))
    np.testing.assert_allclose(squareform(pdist(found)), distances, atol=0.05)


def test_stress_is_less_than_that_of_principal_components() -> None:
    rng = np.random.default_rng(1)
    points = rng.normal(size=(80, 6))
    distances = squareform(pdist(points))
    start = (points - points.mean(0))[:, :2]
    found = multidimensional_scaling(distances, start)
    before, after = (stress(distances, squareform(pdist(p))) for p in (start, found))
    assert after < 0.6 * before
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-9)


def test_twins_do_no_harm() -> None:
    points = np.repeat(np.eye(3), 2, axis=0)
    distances = squareform(pdist(points))
    found = multidimensional_scaling(distances, points[:, :2])
    assert np.isfinite(found).all()
    assert stress(distances, squareform(pdist(found))) < 0.2
    assert stress(distances, distances) == pytest.approx(0)

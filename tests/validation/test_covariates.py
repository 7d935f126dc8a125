"""What images are known by: directions of view as spherical harmonics, groups, and regression on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import sph_harm_y
from sklearn.linear_model import LinearRegression

from cryodrgn_ext.fourier.point_groups import C1, point_group
from cryodrgn_ext.images.image_statistics import ImageStatistics
from cryodrgn_ext.validation.associations import associate, explain
from cryodrgn_ext.validation.covariates import HARMONIC_ORDER, Covariate, view_columns

from .conftest import Case, N


def directions(n: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(n, 3))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_view_columns_are_the_spherical_harmonics_of_low_order() -> None:
    view = directions(400)
    theta, phi = np.arccos(view[:, 2]), np.arctan2(view[:, 1], view[:, 0])
    orders = [(degree, m) for degree in range(HARMONIC_ORDER + 1) for m in range(degree + 1)]
    harmonics = np.stack([part for degree, m in orders for value in [sph_harm_y(degree, m, theta, phi)]
                          for part in (value.real, value.imag)], axis=1)  # fmt: skip
    columns = view_columns(view, C1)
    assert np.linalg.matrix_rank(columns) == (HARMONIC_ORDER + 1) ** 2
    for wanted, given in ((harmonics, columns), (columns, harmonics)):
        fit = given @ np.linalg.lstsq(given, wanted, rcond=None)[0]
        np.testing.assert_allclose(fit, wanted, atol=1e-10)


@pytest.mark.parametrize("name", ["C3", "D2", "O"])
def test_views_that_show_the_same_of_a_symmetric_molecule_are_alike(name: str) -> None:
    group, view = point_group(name), directions(50)
    for rotation in group.rotations:
        np.testing.assert_allclose(view_columns(view @ rotation, group), view_columns(view, group), atol=1e-12)


def test_residuals_are_those_of_linear_regression() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(300, 2))
    group = rng.integers(0, 7, 300)
    columns = view_columns(directions(300), C1)
    for covariate, regressors in (
        (Covariate("view", columns=columns), columns),
        (Covariate("micrograph", groups=group), np.eye(7)[group]),
    ):
        design = covariate.design()
        assert design is not None
        wanted = values - LinearRegression().fit(regressors, values).predict(regressors)
        np.testing.assert_allclose(design.residual(values), wanted, atol=1e-9)
        assert design.rank == np.linalg.matrix_rank(np.column_stack([np.ones(300), regressors]))


def test_a_covariate_with_too_few_images_for_its_parameters_says_nothing() -> None:
    assert Covariate("micrograph", groups=np.arange(60) // 2).design() is None
    assert Covariate("optics group", groups=np.zeros(60, np.int64)).design() is None
    assert Covariate("view", columns=view_columns(directions(60), C1)).design() is None


def test_shares_are_those_planted_and_chance_explains_nothing() -> None:
    """Latents made by half of the optics group, the rest noise; states cut from them."""
    rng, n = np.random.default_rng(2), 4000
    group, view = rng.integers(0, 2, n), directions(n, 3)
    latents = (group[:, None] * 2.0 - 1) + rng.normal(size=(n, 1))  # variance 1 of 2
    covariates = [Covariate("optics group", groups=group), Covariate("view", columns=view_columns(view, C1)),
                  Covariate("micrograph", groups=rng.integers(0, 400, n))]  # fmt: skip
    found = {one.name: one for one in explain(covariates, np.eye(2)[group], latents, rng)}
    assert found["optics group"].of_states == pytest.approx(1.0)
    assert found["optics group"].of_latents == pytest.approx(0.5, abs=0.03)
    assert found["optics group"].chance == 0.01
    for name in ("view", "micrograph"):
        shares = (found[name].of_states, found[name].of_latents)
        assert all(share is not None and share < 0.03 for share in shares)
        assert found[name].chance > 0.01


def test_states_that_follow_the_background_of_the_files_are_said_to(rigid: Case) -> None:
    rng = np.random.default_rng(5)
    slope = rng.normal(size=N)
    values = np.stack([np.zeros(N), np.ones(N), slope, np.zeros(N), np.zeros(N), np.zeros(N)], axis=1)
    images = replace(rigid.images, statistics=ImageStatistics(values.astype(np.float32)))
    label = (slope > 0).astype(np.int64)
    for states, least, most in ((label, 0.5, 1.0), (rng.permutation(label), 0.0, 0.05)):
        found = {one.name: one for one in associate(images, rigid.consensus.map, C1, states, None)}
        assert least <= (found["background"].of_states or 0.0) <= most

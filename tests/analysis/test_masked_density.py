"""Density within a mask at each particle's latent, held against volumes rendered one by one and sampled latents."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from cryodrgn_ext.analysis.masked_density import MaskedDensity
from cryodrgn_ext.engines.base import LinearForm

D, Q = 12, 2
RNG = np.random.default_rng(0)
MEAN = RNG.normal(size=(D, D, D)).astype(np.float32) + 0.2
PARTS = RNG.normal(size=(3, D, D, D)).astype(np.float32)
MASK = RNG.random((D, D, D)).astype(np.float32)


def weights(z: np.ndarray) -> np.ndarray:
    """Curved, as those of the engine are."""
    return np.column_stack([z[:, 0], z[:, 1], np.sin(z[:, 0])]).astype(np.float32)


def form() -> LinearForm:
    def components() -> Iterator[np.ndarray]:
        yield from PARTS

    return LinearForm(MEAN, 3, components, weights)


def test_it_is_the_mean_of_the_rendered_volume() -> None:
    found = MaskedDensity.of(form(), MASK)
    z = RNG.normal(size=(5, Q)).astype(np.float32)
    volumes = MEAN + np.tensordot(weights(z), PARTS, axes=1)
    within = (volumes * MASK).sum((1, 2, 3)) / MASK.sum()
    dense = 0.45 * np.percentile(MEAN, 99.9) < MEAN
    assert found.at(z) == pytest.approx(within / MEAN[dense].mean(), rel=1e-4)
    # Of the average map where it is particle, it is 1.
    assert MaskedDensity.of(form(), dense.astype(np.float32)).average == pytest.approx(1.0, rel=1e-5)


def test_its_error_is_the_spread_over_latents_drawn_from_their_covariance() -> None:
    found = MaskedDensity.of(form(), MASK)
    z = np.array([[0.3, -0.2], [1.0, 0.5]])
    factor = RNG.normal(size=(2, Q, Q)) * 0.05
    covariance = factor @ factor.transpose(0, 2, 1)
    drawn = z[:, None] + RNG.normal(size=(2, 20_000, Q)) @ factor.transpose(0, 2, 1)
    spread = np.array([found.at(each).std() for each in drawn])
    assert found.error(z, covariance) == pytest.approx(spread, rel=0.03)

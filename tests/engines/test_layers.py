"""Fourier features and the half-space trick."""

from __future__ import annotations

import math

import pytest
import torch

from cryodrgn_ext.engines.neural.layers import FourierFeatures, feature_frequencies, to_half_space


@pytest.mark.parametrize("kind", ["support", "gaussian", "geometric", "geometric_lowpass"])
def test_features_of_a_seed_are_repeatable_and_finite(kind: str) -> None:
    first, again, other = (feature_frequencies(kind, 64, 0.5, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.isfinite(first).all()
    assert kind.startswith("geometric") or not torch.equal(first, other)


def test_geometric_wavelengths_span_nyquist_to_the_box() -> None:
    # Zhong 2022, eq. 3.3: gamma runs from D pi to 2 pi for k in cycles per voxel, wavelengths 2 / D to 1.
    d = 64
    frequencies = feature_frequencies("geometric", d, 0.5, torch.Generator())
    gamma = frequencies.abs().amax(1) * d
    assert gamma.max() == pytest.approx(d * math.pi)
    assert gamma.min() == pytest.approx(2 * math.pi)


def test_support_features_are_point_sources_inside_the_particle() -> None:
    positions = feature_frequencies("support", 64, 0.5, torch.Generator().manual_seed(0)) / (2 * math.pi)
    assert positions.norm(dim=1).max() < 0.5  # of the box


def test_phases_stay_in_float32_under_autocast() -> None:
    features = FourierFeatures(feature_frequencies("support", 256, 0.5, torch.Generator().manual_seed(0)))
    points = 100 * torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = features(points)
    assert torch.equal(low, features(points))


def test_half_space_flips_to_the_partner() -> None:
    points = torch.tensor([[1.0, 2, 3], [-1.0, 2, 3], [0.0, -1, 0]])
    half, flipped = to_half_space(points)
    assert flipped.tolist() == [False, True, False]
    assert torch.equal(half[1], -points[1])

"""The scale of the particle in an image takes part in the likelihood of its poses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from cryodrgn_ext.pose.particle_scale import ParticleScale, at_best_scale_, spread_of, with_scales
from cryodrgn_ext.pose.scoring import Scorer
from cryodrgn_ext.pose.search import SearchSettings, search
from tests.pose.phantoms import angles_deg, phantom

SETTINGS = SearchSettings(base_level=1, refinements=2, keep=8, k_min=8, k_max=12, shift_extent_px=3, shift_count=5)
PRECISION = 16.0


def uneven(n: int) -> torch.Tensor:
    return torch.linspace(0.3, 1.7, n)[torch.randperm(n, generator=torch.Generator().manual_seed(0))]


def test_a_pose_counts_at_the_best_scale_of_all() -> None:
    rng = np.random.default_rng(0)
    product, power = rng.uniform(-80, 200, 50), rng.uniform(1, 200, 50)
    scale = np.linspace(0, 20, 200001)[:, None]
    brute = (scale * product - 0.5 * scale**2 * power - 0.5 * PRECISION * (scale - 1) ** 2).max(axis=0)
    x, y = torch.from_numpy(product), torch.from_numpy(power)
    np.testing.assert_allclose(at_best_scale_(x.clone(), y, PRECISION).numpy(), brute, atol=1e-5)
    np.testing.assert_allclose(at_best_scale_(x.clone(), y, None).numpy(), product - 0.5 * power)
    found = ParticleScale.of(x, y, PRECISION)
    fit = found.mean * x - 0.5 * found.mean.square() * y - found.penalty
    np.testing.assert_allclose(fit.numpy(), brute, atol=1e-5)


def test_bright_and_dim_images_find_their_poses() -> None:
    n = 300
    made = phantom(n, snr=0.5, seed=3, scale=uneven(n))
    plain = search(made.images, made.volume, SETTINGS)
    scaled = search(made.images, made.volume, replace(SETTINGS, scale_precision=PRECISION))
    wrong = [float((angles_deg(one.best.rotation, made.rotation) > 20).float().mean()) for one in (plain, scaled)]
    assert wrong[0] > 0.05
    assert wrong[1] < 0.5 * wrong[0]


def test_scales_and_their_spread_are_measured() -> None:
    n = 300
    scale = uneven(n)
    made = phantom(n, snr=0.5, seed=4, scale=scale)
    scorer = Scorer(made.images, radius=12)
    spread = 0.25
    for _ in range(5):
        found = scorer.scales(made.volume, made.poses, spread**-2, 12)
        spread = spread_of(found.mean, found.error)
    assert abs(spread - float(scale.std())) < 0.1 * float(scale.std())
    off = (found.mean - scale) / found.error
    assert 0.7 < float(off.square().mean().sqrt()) < 1.4


def test_images_of_known_scale_are_as_likely_as_those_of_scale_one() -> None:
    n = 40
    scale = uneven(n)
    made = phantom(n, snr=0.5, seed=5, scale=scale)
    expected = with_scales(made.images, scale)
    known, scaled = (
        one.own(made.volume, made.rotation[:, None], made.shift_px[:, None])[:, 0, 0]
        for one in (Scorer(expected, radius=12), Scorer(made.images, radius=12).scaled(scale))
    )
    plain = Scorer(made.images, radius=12).own(made.volume, made.rotation[:, None], made.shift_px[:, None])[:, 0, 0]
    torch.testing.assert_close(known, scaled, rtol=1e-4, atol=1e-3)
    assert float((known - plain).mean()) > 1.0

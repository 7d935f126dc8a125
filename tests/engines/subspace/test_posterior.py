"""Latents in closed form against the multivariate normal distribution of whole images, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from cryodrgn_ext.engines.subspace.posterior import SCALE_RANGE, infer
from tests.engines.subspace.tiny_problem import TinyProblem, tiny_problem


@pytest.fixture(scope="module")
def problem() -> TinyProblem:
    return tiny_problem(n=5, n_columns=4)


def real_and_imaginary(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values.real, values.imag], axis=-1 if values.ndim == 1 else 0)


def test_mean_covariance_and_evidence_equal_those_of_the_multivariate_normal(problem: TinyProblem) -> None:
    inner, cross = problem.operators.gram(problem.components, problem.n_columns, problem.chunk)
    got = infer(inner, cross)
    model, data = problem.model(), problem.data
    q = problem.n_columns - 1
    for i in range(len(data)):
        mean = real_and_imaginary(model[i, :, 0])
        matrix = real_and_imaginary(model[i, :, 1:])
        image = real_and_imaginary(data[i])
        noise = 0.5 * np.eye(len(image))  # complex noise of unit power: half of it in each part
        joint = matrix @ matrix.T + noise
        gain = np.linalg.solve(joint, matrix).T
        assert np.allclose(got.mean[i], gain @ (image - mean), atol=1e-4)
        assert np.allclose(got.covariance[i], np.eye(q) - gain @ matrix, atol=1e-4)
        expected = multivariate_normal(mean, joint).logpdf(image)
        expected -= multivariate_normal(np.zeros(len(image)), noise).logpdf(image)
        assert float(got.evidence[i]) == pytest.approx(expected, rel=1e-4, abs=1e-2)
        assert float(got.particle_scale[i]) == 1.0


def test_moments_are_those_of_one_and_the_latents(problem: TinyProblem) -> None:
    posterior = infer(*problem.operators.gram(problem.components, problem.n_columns, problem.chunk))
    moments = posterior.moments()
    assert torch.equal(moments, moments.mT)
    assert torch.equal(moments[:, 0, 0], torch.ones(5))
    assert torch.allclose(moments[:, 0, 1:].double(), posterior.mean, atol=1e-6)
    spread = moments[:, 1:, 1:].double() - posterior.mean[:, :, None] * posterior.mean[:, None]
    assert torch.allclose(spread, posterior.covariance, atol=1e-4)


def simulated(n: int, particle_scale: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inner products of images a (p_0 + P z) + noise, and z."""
    g = torch.Generator().manual_seed(seed)
    size, q = 400, 3
    terms = torch.randn(n, size, q + 1, generator=g, dtype=torch.float64) * torch.tensor([2.0, 0.4, 0.3, 0.2])
    z = torch.randn(n, q, generator=g, dtype=torch.float64)
    clean = (terms @ torch.cat([torch.ones(n, 1), z], 1)[..., None])[..., 0]
    image = particle_scale[:, None] * clean + 0.5**0.5 * torch.randn(n, size, generator=g, dtype=torch.float64)
    return terms.mT @ terms, (terms.mT @ image[..., None])[..., 0], z


def test_scales_are_found_and_latents_with_them() -> None:
    particle_scale = 0.6 + 0.8 * torch.rand(300, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    inner, cross, z = simulated(300, particle_scale)
    with_scales, without = infer(inner, cross, fit_contrast=True), infer(inner, cross)
    assert float((with_scales.particle_scale - particle_scale).abs().mean()) < 0.05
    error = [(posterior.mean - z).square().mean() for posterior in (with_scales, without)]
    assert error[0] < 0.9 * error[1]


def test_scale_is_where_the_evidence_is_greatest() -> None:
    """The evidence at a particle_scale is that of a model whose every term is multiplied by it."""
    inner, cross, _ = simulated(20, torch.full((20,), 0.8, dtype=torch.float64))
    got = infer(inner, cross, fit_contrast=True)

    def score(a: torch.Tensor) -> torch.Tensor:
        fixed = infer(inner * a[:, None, None] ** 2, cross * a[:, None])
        return fixed.evidence - 0.5 * ((a - 1) / 0.3) ** 2

    best = score(got.particle_scale)
    for step in (-0.02, 0.02):
        assert (score(got.particle_scale + step) < best).all()
    assert torch.allclose(best + 0.5 * ((got.particle_scale - 1) / 0.3) ** 2, got.evidence)


def test_images_of_pure_noise_get_a_scale_within_the_range() -> None:
    inner, cross, _ = simulated(50, torch.zeros(50, dtype=torch.float64))
    particle_scale = infer(inner, cross, fit_contrast=True).particle_scale
    low, high = SCALE_RANGE
    assert ((particle_scale >= low - 0.03) & (particle_scale <= high + 0.03)).all()


def test_inner_products_with_rounding_errors_are_not_refused() -> None:
    """Strong signal in float32: inner products of parallel components may be indefinite by more than the prior."""
    p = torch.ones(1, 3)
    inner = 1e8 * (p.mT @ p)[None]
    inner[0, 1, 2] = inner[0, 2, 1] = 1e8 * (1 + 3e-7)
    for fit_contrast in (False, True):
        posterior = infer(inner, 1e8 * p, fit_contrast)
        assert torch.isfinite(posterior.mean).all()
        assert torch.isfinite(posterior.evidence).all()

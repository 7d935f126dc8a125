"""Latents in closed form against the multivariate normal distribution of whole images, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from cryodrgn_ext.engines.subspace.posterior import LEAST_SCALE, SCALE_REACH, infer
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
    with_scales, without = infer(inner, cross, 0.3), infer(inner, cross)
    assert float((with_scales.particle_scale - particle_scale).abs().mean()) < 0.05
    error = [(posterior.mean - z).square().mean() for posterior in (with_scales, without)]
    assert error[0] < 0.9 * error[1]


@pytest.mark.parametrize("spread", [0.05, 0.3])
def test_scales_and_evidence_are_those_of_the_integral_over_scales(spread: float) -> None:
    """At a known scale the model is that of terms multiplied by it; numerical integration is the witness."""
    generator = torch.Generator().manual_seed(2)
    true = 1 + spread * torch.randn(40, generator=generator, dtype=torch.float64).clamp(-2, 2)
    inner, cross, _ = simulated(40, true)
    got = infer(0.05 * inner, 0.05 * cross, spread)  # so weak that the prior counts
    scales = 1 + spread * torch.linspace(-5, 5, 201, dtype=torch.float64)
    logs = torch.stack([infer(0.05 * inner * a**2, 0.05 * cross * a).evidence for a in scales], 1)
    logs = logs - 0.5 * ((scales - 1) / spread).square() - 0.5 * np.log(2 * np.pi * spread**2)
    evidence = logs.logsumexp(1) + (scales[1] - scales[0]).log()
    share = torch.softmax(logs, 1)
    mean = share @ scales
    deviation = (share @ scales.square() - mean.square()).sqrt()
    assert ((got.particle_scale - mean).abs() < 0.2 * deviation).all()
    assert torch.allclose(got.scale_variance.sqrt(), deviation, rtol=0.1)
    assert torch.allclose(got.evidence, evidence, atol=0.03)


def test_images_of_pure_noise_get_a_scale_within_the_range() -> None:
    inner, cross, _ = simulated(50, torch.zeros(50, dtype=torch.float64))
    particle_scale = infer(inner, cross, 0.3).particle_scale
    assert ((particle_scale >= LEAST_SCALE) & (particle_scale <= 1 + SCALE_REACH * 0.3)).all()


def test_inner_products_with_rounding_errors_are_not_refused() -> None:
    """Strong signal in float32: inner products of parallel components may be indefinite by more than the prior."""
    p = torch.ones(1, 3)
    inner = 1e8 * (p.mT @ p)[None]
    inner[0, 1, 2] = inner[0, 2, 1] = 1e8 * (1 + 3e-7)
    for scale_spread in (0.0, 0.3):
        posterior = infer(inner, 1e8 * p, scale_spread)
        assert torch.isfinite(posterior.mean).all()
        assert torch.isfinite(posterior.evidence).all()

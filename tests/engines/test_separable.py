"""Closed-form inference of the separable architecture against brute force in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch.autograd.functional import jacobian

from cryodrgn_ext.engines.neural.layers import feature_frequencies
from cryodrgn_ext.engines.neural.model import Observation
from cryodrgn_ext.engines.neural.separable import SeparableModel
from tests.devices import DTYPES

Q, M, B = 3, 40, 5


@pytest.fixture(params=DTYPES, ids=("float32", "float64"))
def model(request: pytest.FixtureRequest) -> SeparableModel:
    torch.manual_seed(0)
    frequencies = feature_frequencies("support", 32, 0.5, torch.Generator().manual_seed(0))
    built = SeparableModel(Q, torch.full((16,), 1.0), frequencies, width=24, layers=1, kl_weight=1.0)
    torch.nn.init.normal_(built.mixing.bias, std=0.1)
    torch.nn.init.normal_(built.bend_out.weight, std=0.05)  # a network that has learned something non-linear
    return built.to(request.param)


def make_observation(dtype: torch.dtype, n_latent: int = M) -> Observation:
    rng = torch.Generator().manual_seed(1)
    parts = [torch.randn(B, M, generator=rng).to(dtype) for _ in range(3)]
    return Observation(
        values=torch.complex(parts[0], parts[1]),
        whitened_ctf=parts[2],
        points=4 * torch.randn(B, M, 3, generator=rng).to(dtype),
        shell=torch.zeros(M, dtype=torch.long),
        weight=torch.ones(M, dtype=dtype),
        n_latent=n_latent,
    )


def dtype_of(model: SeparableModel) -> torch.dtype:
    return model.mixing.weight.dtype


def tolerance(model: SeparableModel) -> float:
    return 1e-4 if dtype_of(model) == torch.float32 else 1e-9


def linear_maps(model: SeparableModel, observation: Observation) -> tuple[np.ndarray, np.ndarray]:
    """Per image: matrix (2 M, q) and offset (2 M,) of the linear model, by evaluating the model at unit latents."""
    units = torch.cat([torch.zeros(1, Q), torch.eye(Q)]).to(dtype_of(model))
    bends = model.bend_out.weight.detach().clone(), model.bend_out.bias.detach().clone()
    torch.nn.init.zeros_(model.bend_out.weight)
    torch.nn.init.zeros_(model.bend_out.bias)
    matrices, offsets = [], []
    for b in range(B):
        spectrum = (model.spectrum(observation.points[b], units) * observation.whitened_ctf[b]).to(torch.complex128)
        stacked = torch.cat([spectrum.real, spectrum.imag], 1).numpy()
        offsets.append(stacked[0])
        matrices.append((stacked[1:] - stacked[0]).T)
    with torch.no_grad():
        model.bend_out.weight.copy_(bends[0])
        model.bend_out.bias.copy_(bends[1])
    return np.stack(matrices), np.stack(offsets)


def test_marginal_likelihood_equals_the_multivariate_normal(model: SeparableModel) -> None:
    observation = make_observation(dtype_of(model))
    matrices, offsets = linear_maps(model, observation)
    expected = []
    for b in range(B):
        data = torch.cat([observation.values[b].real, observation.values[b].imag]).double().numpy()
        covariance = np.eye(2 * M) / 2 + matrices[b] @ matrices[b].T  # E|n|^2 = 1 is variance 1/2 per part
        expected.append(-multivariate_normal(offsets[b], covariance).logpdf(data))
    noise_constant = M * np.log(np.pi)  # of M complex standard normals, left out of the loss
    loss = model.loss(observation, torch.zeros(B, Q, dtype=dtype_of(model)), linear=True)
    assert float(loss.total.detach()) == pytest.approx(np.mean(expected) - noise_constant, rel=tolerance(model))


def test_linear_posterior_equals_the_normal_equations_in_float64(model: SeparableModel) -> None:
    torch.nn.init.zeros_(model.bend_out.weight)
    observation = make_observation(dtype_of(model))
    matrices, offsets = linear_maps(model, observation)
    mean, covariance = model.posterior(observation)
    for b in range(B):
        data = torch.cat([observation.values[b].real, observation.values[b].imag]).double().numpy()
        precision = np.eye(Q) + 2 * matrices[b].T @ matrices[b]
        expected = np.linalg.solve(precision, 2 * matrices[b].T @ (data - offsets[b]))
        np.testing.assert_allclose(mean[b].numpy(), expected, rtol=10 * tolerance(model), atol=tolerance(model))
        np.testing.assert_allclose(
            covariance[b].numpy(), np.linalg.inv(precision), rtol=10 * tolerance(model), atol=tolerance(model)
        )


def test_latent_band_is_all_that_informs_the_latent(model: SeparableModel) -> None:
    observation = make_observation(dtype_of(model), n_latent=15)
    changed = observation.values.clone()
    changed[:, 15:] += 100
    other = replace(observation, values=changed)
    assert torch.equal(model.posterior(observation)[0], model.posterior(other)[0])


def test_gauss_newton_mode_has_no_gradient(model: SeparableModel) -> None:
    """At the mode of the non-linear posterior the gradient of the log density vanishes (to the steps taken)."""
    observation = make_observation(dtype_of(model))
    mode, _ = model.posterior(observation)

    def objective(z: torch.Tensor) -> torch.Tensor:
        total = 0.5 * z.square().sum()
        for b in range(B):
            h, sign = model._components(observation.points[b], torch.ones(M, dtype=dtype_of(model)))
            prediction = model._combine(h[None], sign[None], model._mixing(z[b : b + 1], False)[..., None])[0, :, 0]
            field = torch.complex(prediction[:M], prediction[M:]) * observation.whitened_ctf[b]
            total = total + (observation.values[b] - field).abs().square().sum()
        return total

    def slope(z: torch.Tensor) -> float:
        z = z.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(objective(z), z)
        return float(gradient.norm())

    assert slope(mode) < 0.05 * slope(torch.zeros(B, Q, dtype=dtype_of(model)))


def test_jacobian_equals_automatic_differentiation(model: SeparableModel) -> None:
    z = torch.randn(2, Q, generator=torch.Generator().manual_seed(3)).to(dtype_of(model))
    for b in range(2):
        expected = jacobian(lambda row: model._mixing(row[None], False)[0], z[b])
        torch.testing.assert_close(
            model._jacobian(z, False)[b], expected, rtol=tolerance(model), atol=tolerance(model) / 10
        )


def test_gradient_of_the_likelihood_against_finite_differences(model: SeparableModel) -> None:
    model.double()
    double = make_observation(torch.float64)
    weight = model.mixing.weight
    model.loss(double, torch.zeros(B, Q), linear=True).total.backward()
    assert weight.grad is not None
    step = 1e-3
    for row, column in ((0, 0), (7, 1), (30, 2)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[row, column] += sign * step
            values.append(float(model.loss(double, torch.zeros(B, Q), linear=True).total.detach()))
            with torch.no_grad():
                weight[row, column] -= sign * step
        assert float(weight.grad[row, column]) == pytest.approx(
            (values[0] - values[1]) / (2 * step), rel=0.02, abs=2e-3
        )


def test_spectrum_is_that_of_a_real_volume(model: SeparableModel) -> None:
    points = 5 * torch.randn(20, 3, generator=torch.Generator().manual_seed(4)).to(dtype_of(model))
    z = torch.randn(2, Q, generator=torch.Generator().manual_seed(5)).to(dtype_of(model))
    torch.testing.assert_close(model.spectrum(-points, z), model.spectrum(points, z).conj())

"""The published architecture: symmetry, likelihood and prior."""

from __future__ import annotations

import pytest
import torch

from cryodrgn_ext.engines.neural.layers import feature_frequencies
from cryodrgn_ext.engines.neural.model import Observation
from cryodrgn_ext.engines.neural.vae import VaeModel

Q, M, B = 2, 30, 4


def make_model(zdim: int, domain: str) -> VaeModel:
    torch.manual_seed(0)
    frequencies = feature_frequencies("gaussian", 32, 0.5, torch.Generator().manual_seed(0))
    return VaeModel(zdim, torch.full((16,), 2.0), frequencies, M, (1, 16), (1, 16), domain, kl_weight=0.7)


def make_observation() -> Observation:
    rng = torch.Generator().manual_seed(1)
    values = torch.complex(torch.randn(B, M, generator=rng), torch.randn(B, M, generator=rng))
    points = 4 * torch.randn(B, M, 3, generator=rng)
    shell = torch.zeros(M, dtype=torch.long)
    return Observation(values, torch.randn(B, M, generator=rng), points, shell, torch.ones(M), M)


@pytest.mark.parametrize("domain", ["complex", "hartley"])
@pytest.mark.parametrize("zdim", [0, Q])
def test_spectrum_is_that_of_a_real_volume(domain: str, zdim: int) -> None:
    model = make_model(zdim, domain)
    points = 5 * torch.randn(20, 3, generator=torch.Generator().manual_seed(4))
    z = torch.randn(2, zdim, generator=torch.Generator().manual_seed(5))
    spectrum = model.spectrum(points, z)
    torch.testing.assert_close(model.spectrum(-points, z), spectrum.conj())
    assert spectrum.abs().max() > 0


def test_hartley_decoder_puts_out_real_minus_imaginary_part() -> None:
    model = make_model(Q, "hartley")
    points = 3 * torch.randn(10, 3, generator=torch.Generator().manual_seed(2))
    z = torch.randn(1, Q, generator=torch.Generator().manual_seed(3))
    spectrum = model.spectrum(points, z)[0]
    hartley = model._network(points, z)[:, 0].detach() * model.magnitude(points)
    torch.testing.assert_close(spectrum.real - spectrum.imag, hartley)


def test_loss_is_squared_error_plus_weighted_divergence() -> None:
    model = make_model(Q, "complex")
    observation = make_observation()
    terms = model.loss(observation, torch.Generator().manual_seed(0), linear=False)
    assert float((terms.total - terms.reconstruction - 0.7 * terms.kl).detach().abs()) < 1e-4
    mean, covariance = model.posterior(observation)
    standard = torch.distributions.MultivariateNormal(torch.zeros(Q), torch.eye(Q))
    posterior = torch.distributions.MultivariateNormal(mean, covariance)
    expected = torch.distributions.kl_divergence(posterior, standard).mean()
    assert float(terms.kl.detach()) == pytest.approx(float(expected), rel=1e-4)


def test_homogeneous_model_has_no_divergence_and_no_encoder() -> None:
    model = make_model(0, "complex")
    terms = model.loss(make_observation(), torch.Generator().manual_seed(0), linear=False)
    assert float(terms.kl) == 0
    assert model.encoder is None
    assert float(terms.reconstruction.detach()) > 0

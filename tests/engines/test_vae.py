"""The published architecture: symmetry, likelihood and prior."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.autograd.functional import jacobian

from cryodrgn_ext.engines.neural import tiled
from cryodrgn_ext.engines.neural.layers import feature_frequencies
from cryodrgn_ext.engines.neural.model import Observation
from cryodrgn_ext.engines.neural.refinement import decoder_slope, refine
from cryodrgn_ext.engines.neural.vae import VaeModel
from tests.devices import in_dtypes, on_devices

Q, M, B = 2, 30, 4


def make_model(
    zdim: int, domain: str, dtype: torch.dtype = torch.float32, device: str = "cpu", layers: int = 1,
    of_sums: bool = False,
) -> VaeModel:  # fmt: skip
    torch.manual_seed(0)
    frequencies = feature_frequencies("gaussian", 32, 0.5, torch.Generator().manual_seed(0))
    model = VaeModel(zdim, torch.full((16,), 2.0), frequencies, M, (1, 16), (layers, 16), domain, 0.7, of_sums)
    return model.to(device, dtype)


def make_observation(dtype: torch.dtype = torch.float32, device: str = "cpu") -> Observation:
    rng = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng).to(device, dtype)

    values = torch.complex(drawn(B, M), drawn(B, M))
    points = 4 * drawn(B, M, 3)
    shell = torch.zeros(M, dtype=torch.long, device=device)
    return Observation(values, drawn(B, M), points, shell, torch.ones(M, dtype=dtype, device=device), M)


@on_devices
@in_dtypes
@pytest.mark.parametrize("domain", ["complex", "hartley"])
@pytest.mark.parametrize("zdim", [0, Q])
def test_spectrum_is_that_of_a_real_volume(domain: str, zdim: int, dtype: torch.dtype, device: str) -> None:
    model = make_model(zdim, domain, dtype, device)
    points = 5 * torch.randn(20, 3, generator=torch.Generator().manual_seed(4)).to(device, dtype)
    z = torch.randn(2, zdim, generator=torch.Generator().manual_seed(5)).to(device, dtype)
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


@on_devices
@in_dtypes
def test_loss_is_squared_error_plus_weighted_divergence(dtype: torch.dtype, device: str) -> None:
    model = make_model(Q, "complex", dtype, device)
    observation = make_observation(dtype, device)
    exact = 1e-4 if dtype == torch.float32 else 1e-7  # covariances are float32
    model.tiled = dtype == torch.float32  # the tiles are float32
    terms = model.loss(observation, torch.zeros(B, Q, dtype=dtype, device=device), linear=False)
    assert float((terms.total - terms.reconstruction - 0.7 * terms.kl).detach().abs()) < exact
    mean, covariance = (found.double().cpu() for found in model.posterior(observation))
    standard = torch.distributions.MultivariateNormal(torch.zeros(Q).double(), torch.eye(Q).double())
    posterior = torch.distributions.MultivariateNormal(mean, covariance)
    expected = torch.distributions.kl_divergence(posterior, standard).mean()
    assert float(terms.kl.detach()) == pytest.approx(float(expected), rel=exact)


def test_homogeneous_model_has_no_divergence_and_no_encoder() -> None:
    model = make_model(0, "complex")
    terms = model.loss(make_observation(), torch.zeros(B, 0), linear=False)
    assert float(terms.kl) == 0
    assert model.encoder is None
    assert float(terms.reconstruction.detach()) > 0


@pytest.mark.parametrize("zdim", [0, Q])
@pytest.mark.parametrize("rows", [7, 2048])  # several tiles per image, and one
@pytest.mark.parametrize("of_sums", [False, True])
def test_tiled_loss_and_gradients_are_those_of_autograd(
    zdim: int, rows: int, of_sums: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiled, "TILE_ROWS", rows)
    observation = make_observation()
    noise = torch.randn(B, zdim, generator=torch.Generator().manual_seed(2))
    found = {}
    for form in (True, False):
        model = make_model(zdim, "complex", layers=2, of_sums=of_sums)
        model.tiled = form
        terms = model.loss(observation, noise, linear=False)
        terms.total.backward()
        found[form] = [terms.total.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]
    assert len(found[True]) == len(found[False]) > 6
    for fast, plain in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))


def test_threads_do_not_change_the_loss_beyond_rounding_nor_torchs_number_of_threads() -> None:
    observation, noise = make_observation(), torch.zeros(B, Q)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3, 3):
            torch.set_num_threads(threads)
            model = make_model(Q, "complex")
            total = model.loss(observation, noise, linear=False).total
            found.append([total.detach(), *torch.autograd.grad(total, list(model.parameters()))])
            assert torch.get_num_threads() == threads
            model.release()
    finally:
        torch.set_num_threads(before)
    for alone, shared, again in zip(*found, strict=True):
        torch.testing.assert_close(shared, alone, rtol=1e-4, atol=1e-4 * float(alone.abs().max()))
        assert torch.equal(shared, again)


def test_bfloat16_loss_is_that_of_float32_within_its_precision() -> None:
    observation, noise = make_observation(), torch.zeros(B, Q)
    model = make_model(Q, "complex")
    exact = model.loss(observation, noise, linear=False)
    slopes = torch.autograd.grad(exact.total, list(model.parameters()))
    model.network_dtype = torch.bfloat16
    low = model.loss(observation, noise, linear=False)
    assert float(low.total.detach()) == pytest.approx(float(exact.total.detach()), rel=2e-2)
    for rough, slope in zip(torch.autograd.grad(low.total, list(model.parameters())), slopes, strict=True):
        assert float((rough - slope).norm()) < 0.05 * float(slope.norm())


@pytest.mark.parametrize("of_sums", [False, True])
def test_decoder_slope_is_the_jacobian(of_sums: bool) -> None:
    model = make_model(Q, "complex", layers=2, of_sums=of_sums).double()
    features = torch.randn(9, model.features.width, dtype=torch.float64)
    z = torch.randn(Q, dtype=torch.float64)

    def output(at: torch.Tensor) -> torch.Tensor:
        joined: torch.Tensor = model.decoder(torch.cat([features, at.expand(9, Q)], 1))
        return joined

    value, slope = decoder_slope(model.decoder, features, z)
    torch.testing.assert_close(value, output(z))
    torch.testing.assert_close(slope, jacobian(output, z))


def test_refinement_finds_the_latent_that_made_the_data() -> None:
    model = make_model(Q, "complex")
    model.kl_weight = 1e-4
    truth = torch.randn(B, Q, generator=torch.Generator().manual_seed(7))
    blank = make_observation()
    gain = 100 * blank.whitened_ctf
    clean = torch.stack([model.spectrum(p, z[None])[0] for p, z in zip(blank.points, truth, strict=True)])
    observation = replace(blank, values=gain * clean, whitened_ctf=gain)
    guess = truth + 0.2 * torch.randn(B, Q, generator=torch.Generator().manual_seed(8))
    z, covariance = refine(model, observation, guess, 30)
    torch.testing.assert_close(z, truth, atol=1e-3, rtol=0)
    assert torch.linalg.eigvalsh(covariance).min() > 0

"""The curved model: exact posteriors, no image explained by its own noise, and gains that say what was learned."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from cryodrgn_ext.engines.held_out import HeldOut, weighed
from cryodrgn_ext.engines.subspace.cells import CellPosterior, Cells, ImageTerms
from cryodrgn_ext.engines.subspace.curved import curved_bands
from cryodrgn_ext.engines.subspace.evidence import Gains
from cryodrgn_ext.engines.subspace.features import Features, Nodes
from cryodrgn_ext.engines.subspace.prior_shares import prior_shares
from tests.engines.linear_set import LinearSet
from tests.engines.subspace.test_engine import fit
from tests.engines.subspace.test_halves import homogeneous

SHARE = torch.full((25,), 1 / 25, dtype=torch.float64)


def curve(nodes: int = 25) -> Features:
    x = torch.linspace(-1, 1, nodes, dtype=torch.float64)[:, None]
    return Features.build(Nodes(x, torch.full((nodes,), 1 / nodes, dtype=torch.float64)), 0.8, 3)


def image_on_curve(features: Features, x: float, strength: float, rare: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(M, q + 1) model terms, the last one a rare state's, and an image (M,) at x with noise of variance 1 / 2."""
    generator = torch.Generator().manual_seed(0)
    model = strength * torch.randn(40, features.count + 2, generator=generator, dtype=torch.float64)
    weight = torch.cat([torch.ones(1).double(), features(torch.tensor([[x]]))[0], torch.tensor([rare]).double()])
    return model, model @ weight + 0.5**0.5 * torch.randn(40, generator=generator, dtype=torch.float64)


def inferred(features: Features, model: torch.Tensor, image: torch.Tensor, rare: float, spread: float) -> CellPosterior:
    inner, cross = (model.mT @ model)[None], (model.mT @ image)[None]
    terms = ImageTerms.split(inner, cross, features.count + 1, torch.tensor([[rare]]))
    return Cells(features).posterior(terms, SHARE, spread)


def integrated(
    features: Features, model: torch.Tensor, image: torch.Tensor, rare: float, spread: float
) -> tuple[float, float, float]:
    """Log evidence, mean and variance of x by quadrature over x and the particle scale, on the smooth curve itself."""
    x = torch.linspace(-2.5, 2.5, 4001, dtype=torch.float64)
    weight = torch.cat([torch.ones(len(x), 1), features(x[:, None]), torch.full((len(x), 1), rare)], 1)
    predicted = weight @ model.mT
    width = 0.5 * features.nodes.cell**0.5
    centres = features.nodes.centres[:, 0]
    prior = torch.exp(-0.5 * ((x[:, None] - centres) / width) ** 2).mean(1) / (width * (2 * np.pi) ** 0.5)
    scales = torch.linspace(0.2, 1.8, 401, dtype=torch.float64) if spread else torch.ones(1).double()
    terms = 2 * scales[:, None] * (predicted @ image) - scales[:, None].square() * predicted.square().sum(1)
    if spread:
        terms = terms - 0.5 * ((scales[:, None] - 1) / spread) ** 2 - np.log(spread * (2 * np.pi) ** 0.5)
        terms = terms.logsumexp(0, keepdim=True) + float((scales[1] - scales[0]).log())
    density = terms[0] + prior.log()
    evidence = density.logsumexp(0)
    share = (density - evidence).exp()
    mean = share @ x
    return float(evidence + np.log(float(x[1] - x[0]))), float(mean), float(share @ (x - mean).square())


@pytest.mark.parametrize("spread", [0.0, 0.1])
@pytest.mark.parametrize(("strength", "x"), [(0.05, 0.3), (0.3, 0.3), (0.3, -0.62), (1.0, 0.31), (1.0, 0.125)])
def test_posterior_equals_quadrature_on_the_curve(strength: float, x: float, spread: float) -> None:
    """Images that tell little, some, and more than nodes are apart: mean and width are those of the smooth curve."""
    features = curve()
    model, image = image_on_curve(features, x, strength, 0.3)
    found = inferred(features, model, image, 0.3, spread)
    evidence, mean, variance = integrated(features, model, image, 0.3, spread)
    width = variance**0.5
    assert abs(float(found.evidence) - evidence) < 0.25  # the curve bends within a cell
    assert abs(float(found.mean) - mean) < 0.2 * width
    assert 0.8 < float(found.covariance) ** 0.5 / width < 1.25


def test_sharp_latents_do_not_fall_onto_nodes() -> None:
    features = curve()
    for x in np.linspace(-0.9, 0.9, 31):
        model, image = image_on_curve(features, float(x), 5.0, 0.0)
        found = inferred(features, model, image, 0.0, 0.0)
        assert abs(float(found.mean) - x) < 6 * float(found.covariance) ** 0.5 + 0.005
        assert 0 < float(found.covariance) ** 0.5 < 0.05


def test_second_moments_are_those_of_the_weights() -> None:
    features = curve()
    model, image = image_on_curve(features, 0.2, 0.2, 0.0)
    cells = Cells(features)
    terms = ImageTerms.split((model.mT @ model)[None], (model.mT @ image)[None], 4, torch.zeros(1, 1))
    found = cells.posterior(terms, SHARE, 0.0)
    assert float(found.moments[0, 0, 0]) == pytest.approx(1, abs=1e-5)
    at = found.mean + found.covariance[0].sqrt() * torch.linspace(-4, 4, 801)[:, None]
    normal = torch.softmax(-0.5 * torch.linspace(-4, 4, 801).double().square(), 0)
    weight = torch.cat([torch.ones(801, 1), features(at)], 1)
    torch.testing.assert_close(found.moments[0].double(), weight.mT @ (normal[:, None] * weight), atol=0.05, rtol=0.05)


def test_weights_at_latents_are_continuous_and_follow_the_curve() -> None:
    """Also where nearly all particles are at two nodes."""
    features = curve()
    share = torch.full((25,), 1e-7).double()
    share[[4, 20]] = 0.5
    x = torch.linspace(-1, 1, 400)[:, None]
    for prior in (SHARE, share / share.sum()):
        weight = Cells(features).weights(x, torch.full((1, 1), 1e-4), prior)
        assert len(weight.unique(dim=0)) == 400
        torch.testing.assert_close(weight[:, 0], torch.ones(400).double())
    followed = Cells(features).weights(x[40:-40], torch.full((1, 1), 1e-4), SHARE)[:, 1:]
    torch.testing.assert_close(followed, features(x[40:-40]), atol=0.03, rtol=0.03)
    assert len(Cells(features).weights(x[:0], torch.eye(1), SHARE)) == 0


def test_prior_shares_find_the_shares_of_particles() -> None:
    node = torch.arange(3).expand(1000, 3).to(torch.int16)
    state = torch.where(torch.arange(1000) < 700, 0, 2)
    logit = torch.where(node == state[:, None], 0.0, -30.0)
    even = torch.full((3,), 1 / 3).double()
    for share in prior_shares([(node, logit), (node, logit)], [even, even]):
        torch.testing.assert_close(share, torch.tensor([0.7, 0, 0.3]).double(), atol=1e-4, rtol=0)


def test_prior_shares_of_noise_stay_broad() -> None:
    """Where images tell nothing, maximum likelihood makes sharp peaks of noise; the other half-set denies them."""
    node = torch.arange(40).expand(500, 40).to(torch.int16)
    logits = torch.randn(2, 500, 40, generator=torch.Generator().manual_seed(0))
    even = torch.full((40,), 1 / 40).double()
    for share in prior_shares([(node, logits[0]), (node, logits[1])], [even, even]):
        assert share.max() < 3 / 40


def test_a_homogeneous_set_gains_nothing_and_says_so(linear_set: LinearSet) -> None:
    found = weighed(fit(homogeneous(linear_set)))
    assert found is not None
    assert not found.wins
    assert found.average > 0
    assert "no better than the average structure" in found.sentence()


def test_a_heterogeneous_set_gains_much(linear_set: LinearSet) -> None:
    found = weighed(fit(linear_set))
    assert found is not None
    assert found.wins
    assert found.gain > 10 * found.error
    assert HeldOut.from_numbers(found.as_numbers()) == found
    assert "no better" not in found.sentence()


def test_number_of_components_is_the_least_that_none_beats() -> None:
    noise = 0.1 * torch.randn(500, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rising = torch.tensor([0.0, 1.0, 2.0, 2.0])
    assert Gains(noise + rising).informative == 2
    assert Gains(noise - rising).informative == 0
    assert Gains(noise + rising).beats(Gains(noise.flip(0)))
    assert not Gains(noise).beats(Gains(noise + rising))


def test_bands_end_at_the_limit_without_a_leap() -> None:
    for start, limit in ((8, 31), (15, 31), (8, 8), (8, 6), (11, 63)):
        bands = curved_bands(start, limit)
        assert bands[-1] == limit
        assert bands[0] <= start
        assert all(b < 3 * a for a, b in itertools.pairwise(bands))

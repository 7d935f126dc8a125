"""Smooth functions of latents, and which nodes images belong to."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import multivariate_normal

from cryodrgn_ext.engines.subspace.assignment import node_probabilities
from cryodrgn_ext.engines.subspace.cells import Cells, ImageTerms
from cryodrgn_ext.engines.subspace.features import Features, Nodes


def latents(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_features_are_orthogonal_over_the_particles_and_average_to_nothing() -> None:
    x = latents(8000, 2)
    nodes = Nodes.place(x, 400, seed=0)
    features = Features.build(nodes, 0.5, 15)
    values = features(x)
    assert values.shape == (8000, 15)
    exact = features.at_nodes()
    gram = exact.T @ (nodes.weight[:, None] * exact)
    assert torch.allclose(gram[1:, 1:].diagonal(), gram[1:, 1:].sum(0), atol=1e-8)  # at the nodes: exactly
    assert torch.allclose(gram[0], torch.eye(16, dtype=torch.float64)[0], atol=1e-8)
    correlation = torch.corrcoef(values.T)
    assert (correlation - torch.eye(15)).abs().max() < 0.1
    deviation = values.std(0)
    assert (values.mean(0).abs() < 0.05 * deviation).all()


def test_first_features_are_the_smoothest() -> None:
    x = torch.linspace(-2, 2, 500)[:, None]
    features = Features.build(Nodes.place(x, 60, 0), 0.35, 6)
    values = features(x)
    turns = [int((values[1:, j] * values[:-1, j] < 0).sum()) for j in range(6)]
    assert turns == sorted(turns)
    assert turns[0] == 1


def test_the_weakest_direction_is_not_lost_to_curves_of_the_strong_ones() -> None:
    x = latents(4000, 6) * torch.tensor([1.0, 1.0, 0.9, 0.8, 0.5, 0.15])
    nodes = Nodes.place(x, 400, seed=0)
    root = nodes.weight.sqrt()[:, None]
    features = Features.build(nodes, 0.35, 15, straight=True)
    table = root * features.at_nodes()
    target = root * nodes.centres
    left = target - table @ torch.linalg.lstsq(table, target).solution
    assert (left.square().sum(0) < 1e-3 * target.square().sum(0)).all()
    assert features.straight
    assert features.lost() < 1e-3
    smooth = Features.build(nodes, 0.35, 15)
    assert not smooth.straight
    assert smooth.lost() > 0.5


def test_features_that_an_earlier_version_saved_are_what_they_were() -> None:
    """Their kernel's straight part was a tenth of z.z' over the squared spread, and the file does not say so."""
    nodes = Nodes.place(latents(500, 2), 30, seed=0)
    generator = torch.Generator().manual_seed(1)
    projection = torch.randn(len(nodes.centres), 4, generator=generator, dtype=torch.float64)
    found = Features.known(nodes, 0.7, 1.4, projection, None)
    point = torch.tensor([[0.3, -0.2]], dtype=torch.float64)

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        near = torch.exp(-torch.cdist(a, b).square() / (2 * 0.7**2))
        return near + 0.1 * a @ b.T / 1.4**2

    weight, centres = nodes.weight, nodes.centres
    own, cross = kernel(centres, centres), kernel(point, centres)
    centred = cross - weight @ own - cross @ weight[:, None] + weight @ own @ weight
    assert torch.allclose(found(point), centred @ projection, rtol=1e-6)


def test_features_carry_on_far_away_from_all_particles() -> None:
    features = Features.build(Nodes.place(latents(500, 3), 40, 0), 0.35, 8)
    far = features(1e4 * torch.eye(3))
    assert torch.isfinite(far).all()
    assert torch.isfinite(features(torch.zeros(1, 3))).all()


@pytest.mark.parametrize(
    "x",
    [torch.zeros(30, 2), torch.full((30, 3), 1e3), latents(30, 1), latents(1, 4), latents(2, 4),
     torch.cat([torch.zeros(29, 2), torch.ones(1, 2)]), 1e-12 * latents(50, 2), 1e12 * latents(50, 2)],
    ids=["all 0", "all equal", "one dimension", "one particle", "two particles", "one apart", "tiny", "huge"],
)  # fmt: skip
def test_degenerate_latents_give_finite_features_and_probabilities(x: torch.Tensor) -> None:
    nodes = Nodes.place(x, min(10, len(x)), seed=0)
    assert float(nodes.weight.sum()) == pytest.approx(1)
    features = Features.build(nodes, 0.35, 15)
    assert features.count <= max(len(nodes.centres) - 1, 0)
    assert torch.isfinite(features(x)).all()
    assert features.at_nodes().shape == (len(nodes.centres), features.count + 1)
    covariance = torch.zeros(len(x), x.shape[1], x.shape[1])
    probability = node_probabilities(x, covariance, nodes)
    assert torch.allclose(probability.sum(1), torch.ones(len(x), dtype=torch.float64))
    model = torch.randn(len(x), 20, features.count + 1, generator=torch.Generator().manual_seed(0))
    terms = ImageTerms.split(model.mT @ model, model.sum(1), features.count + 1, torch.zeros(len(x), 0))
    found = Cells(features).posterior(terms, nodes.weight, 0.1)
    assert torch.isfinite(found.mean).all()
    assert (torch.linalg.eigvalsh(found.covariance) > 0).all()


def test_more_nodes_than_particles_are_not_placed() -> None:
    nodes = Nodes.place(latents(5, 2), 5, seed=0)
    assert len(nodes.centres) <= 5
    assert float(nodes.weight.sum()) == pytest.approx(1)


def test_nodes_depend_on_the_seed_alone() -> None:
    x = latents(300, 2)
    one, again, other = (Nodes.place(x, 20, seed) for seed in (0, 0, 1))
    assert torch.equal(one.centres, again.centres)
    assert not torch.equal(one.centres, other.centres)


def test_probabilities_are_those_of_gaussians_about_the_latents() -> None:
    nodes = Nodes(latents(7, 2, 1).double(), torch.full((7,), 1 / 7, dtype=torch.float64))
    x, factor = latents(4, 2, 2), latents(8, 2, 3).reshape(4, 2, 2)
    covariance = factor @ factor.mT
    got = node_probabilities(x, covariance, nodes)
    for i in range(4):
        wide = covariance[i].double() + 0.25 * nodes.cell * torch.eye(2)
        density = multivariate_normal(x[i].double().numpy(), wide.numpy()).pdf(nodes.centres.numpy())
        assert torch.allclose(got[i], torch.from_numpy(density / density.sum()), atol=1e-4)


def test_slopes_are_the_derivatives_of_the_features() -> None:
    nodes = Nodes.place(latents(500, 2), 60, 0)
    features, step = Features.build(nodes, 0.35, 15), 1e-5
    ahead, behind = (
        torch.stack([features(nodes.centres + sign * step * axis) for axis in torch.eye(2).double()], -1)
        for sign in (1, -1)
    )
    torch.testing.assert_close(features.slopes()[:, 1:], (ahead - behind) / (2 * step), atol=1e-6, rtol=1e-6)
    assert not features.slopes()[:, 0].any()


def test_nodes_cover_a_line_with_few_and_a_plane_with_many() -> None:
    line = Nodes.cover(latents(4000, 1), 0.35, 400, 0)
    plane = Nodes.cover(latents(4000, 2), 0.35, 400, 0)
    assert len(line.centres) < 200
    assert len(plane.centres) > 300
    middle = line.centres.sort(0).values[5:-5]
    assert middle.diff(dim=0).max() < 0.35 / 2
    assert len(Nodes.cover(latents(7, 2), 0.35, 3, 0).centres) <= 3

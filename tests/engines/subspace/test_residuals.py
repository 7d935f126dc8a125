"""Signal of images beyond their model, and scores of it at places of the volume: kernels, plain forms, brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryodrgn_ext.engines.subspace.rare_scan import ball_transform, mixture_gain, score_images
from cryodrgn_ext.engines.subspace.residuals import (
    residuals,
    residuals_torch,
    score_histograms,
    score_histograms_torch,
)
from tests.engines.subspace.tiny_problem import BOX, TinyProblem, tiny_problem


@pytest.fixture(params=[3, 17], scope="module")
def problem(request: pytest.FixtureRequest) -> TinyProblem:
    return tiny_problem(n_columns=request.param)


@pytest.mark.parametrize("form", [residuals, residuals_torch])
def test_residuals_equal_those_of_dense_matrices(problem: TinyProblem, form: object) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(len(problem.chunk.rows), problem.n_columns, generator=generator)
    rest = form(problem.operators, problem.components, weights, problem.chunk)  # type: ignore[operator]
    expected = problem.data - np.einsum("bmq,bq->bm", problem.model(), weights.double().numpy())
    counted = (problem.sampler.sum(2) > 0) & (problem.whitened_ctf != 0)
    assert np.allclose(rest.numpy()[counted], expected[counted], atol=2e-5 * np.abs(expected).max())
    assert np.abs(rest.numpy()[~counted]).max() < 1e-5 or form is residuals_torch


def test_scores_are_matched_filters_of_a_ball_at_a_place(problem: TinyProblem) -> None:
    """Score of a ball at place p: Re <ctf b exp(-2 pi i k.p / D), rest> over its standard deviation in noise."""
    chunk, kxy, width, edge = problem.chunk, problem.operators.kxy, 0.8, 64
    envelope = ball_transform(kxy.square().sum(1), width, BOX)
    scores, sharpness = score_images(chunk.values, chunk.whitened_ctf, kxy, envelope, edge)
    step = BOX / edge
    for image, (row, column) in enumerate([(0, 0), (3, 5), (60, 2), (17, 40)]):
        position = np.array([column, row]) * step
        phase = np.exp(-2j * np.pi * kxy.double().numpy() @ position / BOX)
        term = problem.whitened_ctf[image] * envelope.double().numpy() * phase
        norm = np.sqrt(0.5 * (np.abs(term) ** 2).sum())
        expected = (term.conj() * chunk.values[image].numpy()).real.sum() / norm
        assert float(scores[image, row, column]) == pytest.approx(expected, abs=1e-4)
        assert float(sharpness[image]) == pytest.approx(2 * norm, rel=1e-5)


def test_histograms_of_both_forms_are_the_same_and_count_every_image() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(20, 16, 16, generator=generator)
    planes = torch.linalg.qr(torch.randn(20, 3, 3, generator=generator))[0][:, :2].contiguous()
    places = 4 * torch.randn(30, 3, generator=generator)
    edges = torch.linspace(-2, 2, 9)
    one = score_histograms(scores, planes, places, edges)
    two = score_histograms_torch(scores, planes, places, edges)
    assert (one.sum(1) == 20).all()
    assert (one - two).abs().sum() <= 2  # rounding at the edge of a bin


@pytest.mark.parametrize("sign", [1, -1])
def test_a_few_shifted_scores_are_told_from_noise(sign: int) -> None:
    rng = np.random.default_rng(0)
    scores = 1.3 * rng.normal(size=(2, 20_000)) + 0.4
    scores[0, :60] += sign * 7.0
    edges = torch.arange(-20.0, 20.25, 0.25)
    counts = torch.from_numpy(np.stack([np.histogram(row, edges.numpy())[0] for row in scores]))
    gain, shift, share = mixture_gain(counts, edges)
    assert gain[0] > 200
    assert gain[1] < 8
    assert float(shift[0]) == pytest.approx(sign * 7.0, rel=0.2)
    assert float(share[0]) == pytest.approx(0.003, rel=0.2)

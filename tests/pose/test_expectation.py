"""Posteriors over a grid, and the sums of images that they make, against every score by itself."""

from __future__ import annotations

import pytest
import torch

from cryodrgn_ext.fourier.shifts import shift_phases
from cryodrgn_ext.fourier.slices import FourierAccumulator, FourierGrid, friedel_sum
from cryodrgn_ext.pose.expectation import SearchGrid, expectation
from cryodrgn_ext.pose.initial import shift_disc
from cryodrgn_ext.pose.model import points_on
from cryodrgn_ext.pose.scoring import Scorer
from tests.pose.phantoms import phantom

EXPONENT, BOX = 0.3, 32


@pytest.mark.parametrize("shear", [0.0, 0.05], ids=["mirrored fours", "sheared frequencies"])
def test_posteriors_and_sums_are_those_of_all_scores(shear: float) -> None:
    made = phantom(12, snr=0.05)
    scorer = Scorer(made.images, radius=5)
    matrix = torch.tensor([[1.0, shear], [0.0, 1.0]])
    scorer.frequency_matrix = matrix.expand(12, 2, 2).contiguous()
    shifts = shift_disc(3.0, 3.0)
    grid = SearchGrid.of(0, scorer.kxy, shifts, BOX)
    rows = torch.tensor([3, 7, 8])
    found = expectation(scorer, rows, made.volume, grid, matrix, EXPONENT)

    every = grid.rotation.expand(12, -1, 3, 3)
    scores = scorer.own(made.volume, every, torch.zeros(12, grid.n_rotations, 2), shifts)[rows].double()
    posterior = (EXPONENT * scores).flatten(1).softmax(1).view(scores.shape)
    effective = 1.0 / posterior.sum(2).square().sum(1)
    assert torch.allclose(found.effective_rotations.double(), effective, rtol=1e-3)

    moved = scorer.data[rows][:, None] * shift_phases(scorer.kxy, -shifts, BOX)
    numerator = torch.einsum("bgt,btm->gm", posterior.to(torch.complex64), moved)
    weight = torch.einsum("bgt,bm->gm", posterior.float(), scorer.power[rows])
    wanted, sums = (FourierAccumulator(FourierGrid(BOX, 6, 2), torch.device("cpu")) for _ in range(2))
    wanted.insert(points_on(matrix @ grid.rotation[:, :2], scorer.kxy), numerator, weight)
    sums.insert(found.points, found.numerator, found.weight)
    for one, other in ((sums.numerator, wanted.numerator), (sums.weight, wanted.weight)):
        # At k and -k together: a real map has no other sums, and mirrors may swap the two.
        one, other = friedel_sum(one), friedel_sum(other)
        assert float((one - other).abs().max()) < 1e-3 * float(other.abs().max())

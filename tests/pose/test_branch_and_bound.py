"""Algorithm 1 finds planted poses, and drops only what it may."""

from __future__ import annotations

import torch

from cryodrgn_ext.pose.branch_and_bound import branch_and_bound
from cryodrgn_ext.pose.scoring import Scorer
from cryodrgn_ext.pose.search import SearchSettings, search
from tests.pose.phantoms import angles_deg, phantom

SETTINGS = SearchSettings(base_level=1, refinements=3, keep=100, k_min=8, k_max=15, shift_extent_px=4, shift_count=5)


def test_noiseless_poses_are_found() -> None:
    made = phantom(30, snr=None, seed=1)
    found = branch_and_bound(made.images, made.volume, SETTINGS)
    error = angles_deg(found.best.rotation, made.rotation)
    assert error.median() < 3.0
    assert (error < 8.0).float().mean() > 0.9
    assert (found.best.shift_px - made.shift_px).norm(dim=1).median() < 0.25


def test_noisy_poses_are_those_of_the_other_search() -> None:
    made = phantom(60, snr=0.1, seed=2)
    found = branch_and_bound(made.images, made.volume, SETTINGS)
    other = search(made.images, made.volume, SETTINGS)
    assert (angles_deg(found.best.rotation, other.best.rotation) < 5.0).float().mean() > 0.8
    scorer = Scorer(made.images, radius=15)
    again = scorer.own(made.volume, found.poses.rotation, found.poses.shift_px)[..., 0]
    assert torch.allclose(again, found.log_likelihood, rtol=1e-4, atol=1e-2)
    assert (angles_deg(found.best.rotation, made.rotation) < 15.0).float().mean() > 0.8

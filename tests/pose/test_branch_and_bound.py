"""Algorithm 1 finds planted poses, drops only what it may, and serves a whole ab initio reconstruction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryodrgn_ext.errors import ResumeError
from cryodrgn_ext.fourier import so3_grid
from cryodrgn_ext.pose import random_initialisations
from cryodrgn_ext.pose.abinit import reconstruct
from cryodrgn_ext.pose.branch_and_bound import branch_and_bound
from cryodrgn_ext.pose.initial import Schedule
from cryodrgn_ext.pose.metrics import align_poses
from cryodrgn_ext.pose.reconstruct_settings import ReconstructSettings
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


def test_candidates_lie_apart_when_asked() -> None:
    made = phantom(40, snr=0.1, seed=2)
    found = branch_and_bound(made.images, made.volume, replace(SETTINGS, refinements=1, keep_final=3, apart=1.5))
    rotation = found.poses.rotation
    nearest = torch.stack([angles_deg(rotation[:, i], rotation[:, j]) for i in range(3) for j in range(i)]).amin(0)
    least = 1.5 * so3_grid.spacing_deg(SETTINGS.base_level + 1)
    assert (nearest >= least - 1e-2).float().mean() > 0.9
    assert (angles_deg(found.best.rotation, made.rotation) < 15.0).float().mean() > 0.8


def test_poses_and_map_come_from_nothing_by_branch_and_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = phantom(400, snr=0.5, shift_px=2.0)
    small = Schedule(turns=2.5, batch=100, cooling=1.1, most_steps=25)
    monkeypatch.setattr(random_initialisations, "Schedule", lambda: small)
    settings = ReconstructSettings(
        initialisations=1, initialisation_particles=300, max_shift_px=2.5, seed=1, search="branch_and_bound"
    )
    result = reconstruct(made.images, settings, tmp_path)
    aligned = align_poses(result.poses, made.poses)
    assert np.median(aligned.errors.degrees) < 4.0
    assert np.median(aligned.errors.shift_px) < 0.25
    assert np.mean(aligned.errors.degrees < 20) > 0.9
    with pytest.raises(ResumeError, match="other settings"):
        reconstruct(made.images, replace(settings, search="exhaustive"), tmp_path)

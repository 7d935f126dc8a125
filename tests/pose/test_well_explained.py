"""Images that lie wrong are told from others by what is left of them, and a map that explains too little by its sum."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.pose.estimates import PoseEstimates
from cryodrgn_ext.pose.reconstruct_settings import ReconstructSettings
from cryodrgn_ext.pose.refinement import RefinementState
from cryodrgn_ext.pose.scoring import Scorer
from cryodrgn_ext.pose.view_evenness import SIDE_VIEWS, evenness
from cryodrgn_ext.pose.well_explained import best_explained_rows, explained_signal, maps_of_best_explained
from cryodrgn_ext.progress import SilentMonitor
from tests.pose.phantoms import Phantom, phantom

N, RADIUS = 300, 12.0


def state_at(made: Phantom, poses: Poses) -> RefinementState:
    fit = Scorer(made.images, radius=RADIUS).own(made.volume, poses.rotation[:, None], poses.shift_px[:, None])
    none = torch.zeros(N, dtype=torch.float64)
    double = poses.to(torch.float64)
    return RefinementState(PoseEstimates.of_scale_one(double, fit[:, 0, 0].double(), none, none), RADIUS)


def turned(made: Phantom, share: float) -> tuple[Poses, torch.Tensor]:
    """True poses but of the first images, which are turned over."""
    wrong = torch.arange(N) < share * N
    over = torch.from_numpy(Rotation.from_euler("x", 180, degrees=True).as_matrix()).float()
    rotation = torch.where(wrong[:, None, None], made.rotation @ over, made.rotation)
    return Poses(rotation, made.shift_px), wrong


def test_the_better_half_leaves_out_images_that_lie_wrong() -> None:
    made = phantom(N, snr=0.5, seed=1)
    poses, wrong = turned(made, 0.3)
    state = state_at(made, poses)
    kept = best_explained_rows(made.images, state)
    assert len(kept) == N // 2
    assert bool((kept.diff() > 0).all())
    assert float(wrong[kept].float().mean()) < 0.05
    maps = maps_of_best_explained(made.images, state, ReconstructSettings(), SilentMonitor())
    truth = made.density.flatten()
    for one in maps:
        assert float(torch.corrcoef(torch.stack([one.flatten(), truth]))[0, 1]) > 0.9


def test_a_map_explains_what_the_power_of_the_images_says_or_it_is_said() -> None:
    made = phantom(N, snr=0.5, seed=1)
    right = explained_signal(made.images, state_at(made, made.poses), ReconstructSettings())
    assert abs(right.nats - right.expected) < 4 * right.error
    wrong = explained_signal(made.images, state_at(made, turned(made, 0.2)[0]), ReconstructSettings())
    assert not wrong.is_whole
    assert "poses are wrong in a part of the images" in wrong.sentence()


def test_evenness_of_views() -> None:
    even = torch.from_numpy(Rotation.random(2000, random_state=0).as_matrix())
    assert evenness(even) > 0.97
    about_z = Rotation.from_euler("z", np.random.default_rng(0).uniform(0, 360, (2000, 1)), degrees=True)
    side = torch.from_numpy((Rotation.from_euler("y", 90, degrees=True) * about_z).as_matrix())
    assert abs(evenness(side) - SIDE_VIEWS) < 0.03
    tilted = Rotation.from_euler("y", 20, degrees=True)
    assert evenness(torch.from_numpy((tilted * about_z).as_matrix())) < 0.01

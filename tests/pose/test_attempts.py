"""Refinements from several random initialisations: which one is taken, and when it counts as found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.fourier.point_groups import point_group
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.pose.attempts import Contest, contest, judge
from cryodrgn_ext.pose.coordinate_transform import CoordinateTransform
from cryodrgn_ext.pose.estimates import PoseEstimates
from cryodrgn_ext.pose.random_initialisations import Initialisation
from cryodrgn_ext.pose.refinement import Refined, RefinementState
from tests.monitors import RecordingMonitor

N = 300
TRUTH = Poses.of(Rotation.random(N, rng=1).as_matrix(), np.zeros((N, 2)))


def refined(poses: Poses, mean: float, junk: float = 0.0) -> Refined:
    """Poses; a share of the images has poses of its own, and hardly any likelihood."""
    lost = int(junk * N)
    rotation = poses.rotation.clone().double()
    rotation[:lost] = torch.from_numpy(Rotation.random(lost, rng=int(mean)).as_matrix()) if lost else rotation[:0]
    fit = torch.full((N,), mean, dtype=torch.float64) + torch.linspace(0, 1, N).double()
    fit[:lost] = 2.0
    error = torch.full((N,), 2.0, dtype=torch.float64)
    estimates = PoseEstimates.of_scale_one(Poses(rotation, poses.shift_px.double()), fit, error, error)
    one = object.__new__(Refined)  # the sums of its backprojections have no part here
    object.__setattr__(one, "state", RefinementState(estimates, radius=10.0))
    return one


def random_poses(seed: int) -> Poses:
    return Poses.of(Rotation.random(N, rng=seed).as_matrix(), np.zeros((N, 2)))


def near(poses: Poses, degrees: float, seed: int) -> Poses:
    """The same in other coordinates and in the other hand, each rotation somewhat off."""
    off = Rotation.from_rotvec(np.radians(degrees) * np.random.default_rng(seed).normal(size=(N, 3))).as_matrix()
    moved = Poses(poses.rotation @ torch.from_numpy(off).to(poses.rotation.dtype), poses.shift_px)
    return CoordinateTransform(Rotation.random(rng=seed).as_matrix(), np.zeros(3), mirrored=True).poses(moved)


def outcome(
    results: list[Refined], n_first: int, monitor: RecordingMonitor, most: int | None = None, symmetric: bool = True
) -> Contest:
    """Contest of initialisations that all differ, with these results."""
    supply = [Initialisation(i, torch.zeros(1), random_poses(50 + i), -float(i)) for i in range(len(results))]
    later = iter(supply[n_first:])
    return contest(
        supply[:n_first], most or len(results), lambda _, one: results[one.seed], lambda: next(later),
        lambda *_: symmetric, monitor,
    )  # fmt: skip


def test_the_likeliest_at_the_end_wins_whatever_the_beginning_said() -> None:
    monitor = RecordingMonitor()
    wrong = random_poses(3)
    results = [
        refined(wrong, 100),
        refined(near(wrong, 1.0, 4), 101),
        refined(TRUTH, 120),
        refined(near(TRUTH, 1.0, 5), 119),
    ]
    found = outcome(results, 3, monitor)
    assert found.seed == 2
    assert len(found.attempts) == 4  # two that agree with each other are no ground while a likelier one is alone
    assert found.is_confirmed
    judge(found, monitor)
    assert not monitor.warnings


def test_one_that_nothing_confirms_is_warned_of() -> None:
    monitor = RecordingMonitor()
    found = outcome([refined(random_poses(10 + i), 100 + i) for i in range(4)], 2, monitor)
    assert found.seed == 3
    assert not found.is_confirmed
    judge(found, monitor)
    assert len(monitor.warnings) == 1
    assert "may be wrong" in monitor.warnings[0]


@pytest.mark.parametrize("junk", [0.0, 0.2, 0.4])
def test_images_that_tell_no_pose_have_no_say(junk: float) -> None:
    results = [refined(TRUTH, 100, junk), refined(near(TRUTH, 1.0, 2), 90, junk)]
    assert outcome(results, 2, RecordingMonitor()).is_confirmed


def test_poses_agree_as_far_as_noise_lets_them() -> None:
    far = outcome([refined(TRUTH, 100), refined(near(TRUTH, 15.0, 2), 90)], 2, RecordingMonitor())
    assert not far.is_confirmed


def test_a_single_one_is_taken_at_its_word() -> None:
    monitor = RecordingMonitor()
    found = outcome([refined(TRUTH, 100), refined(random_poses(3), 200)], 1, monitor, most=1)
    assert (found.seed, found.agreement) == (0, None)
    judge(found, monitor)
    assert not monitor.warnings


def test_symmetric_particles_agree_up_to_their_symmetry() -> None:
    """Each search chooses among the equivalent poses of an image by chance."""
    group = point_group("D3").rotations
    axes = Rotation.random(rng=11).as_matrix()

    def search(seed: int) -> Poses:
        chosen = axes.T @ group[np.random.default_rng(seed).integers(len(group), size=N)] @ axes
        equivalent = TRUTH.rotation @ torch.from_numpy(chosen).to(TRUTH.rotation.dtype)
        return near(Poses(equivalent, TRUTH.shift_px), 1.0, seed)

    monitor = RecordingMonitor()
    found = outcome([refined(search(1), 200), refined(search(2), 199)], 2, monitor)
    assert found.is_confirmed
    assert found.symmetry is not None
    assert found.symmetry.group.name == "D3"
    judge(found, monitor)
    assert not monitor.warnings
    assert any("up to rotations of D3" in message for message in monitor.lines)
    lacking = outcome([refined(search(1), 200), refined(search(2), 199)], 2, RecordingMonitor(), symmetric=False)
    assert not lacking.is_confirmed  # the map does not have it: images lie turned over
    assert lacking.symmetry is None

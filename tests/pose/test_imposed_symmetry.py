"""A symmetry that two searches show: its axes become RELION's, and the refined map has it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.fourier.point_groups import point_group
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.pose.alignment import degrees_between
from cryodrgn_ext.pose.found_symmetry import differences, find_symmetry
from cryodrgn_ext.pose.imposed_symmetry import axes_of, in_coordinates
from cryodrgn_ext.pose.reconstruct_settings import ReconstructSettings
from cryodrgn_ext.pose.refinement import first_state, refine
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.reconstruction.half_maps import combine_halves
from tests.monitors import RecordingMonitor
from tests.pose import phantoms

C4 = point_group("C4")
N, BOX = 120, 24


def quarter_turn(volume: torch.Tensor) -> torch.Tensor:
    """Turn by 90 degrees about z through voxel D // 2, without interpolation."""
    return torch.roll(torch.rot90(volume, 1, (1, 2)), 1, 1)


def four_fold(box_size: int, seed: int = 0, beads: int = 120) -> torch.Tensor:
    """Four copies of a chain of beads about z."""
    one = phantoms.density_of(np.random.default_rng(seed), box_size, beads // 4, extent=0.13, offset=(0.14, 0.04, 0.05))
    copies = [one]
    for _ in range(3):
        copies.append(quarter_turn(copies[-1]))
    return torch.stack(copies).sum(0)


def two_searches(truth: torch.Tensor) -> tuple[Poses, Poses, np.ndarray]:
    """Poses in other coordinates, each by one of the group's rotations, from two searches; and those coordinates."""
    rng = np.random.default_rng(4)
    axes = Rotation.random(random_state=rng).as_matrix()
    found = [Poses.of(truth.numpy() @ C4.rotations[rng.integers(4, size=N)] @ axes, np.zeros((N, 2))) for _ in range(2)]
    return found[0], found[1], axes


def test_the_refined_map_has_the_symmetry_about_relions_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantoms, "density", four_fold)
    made = phantoms.phantom(N, box_size=BOX, snr=2.0, shift_px=0.0)
    one, other, _ = two_searches(made.rotation)
    symmetry = find_symmetry(differences(one.rotation.double().numpy(), other.rotation.double().numpy()))
    assert symmetry is not None
    transform = axes_of(C4, symmetry, SilentMonitor())
    assert transform is not None
    state = first_state(made.images, 8.0)
    state = replace(state, estimates=replace(state.estimates, poses=one), searches=1, round=1, moved_share=0.0)
    begun = in_coordinates(state, transform)
    settings = ReconstructSettings(max_shift_px=1.0, rounds=3, symmetry="C4")
    refined = refine(made.images, (made.density, made.density), settings, begun, SilentMonitor())
    found = combine_halves(refined.sums1, refined.sums2, made.images.pixel_size_A).map
    assert np.corrcoef(quarter_turn(torch.from_numpy(found)).numpy().ravel(), found.ravel())[0, 1] > 0.999
    # Poses are those of the truth, up to the group and a turn about its axis.
    apart = differences(made.rotation.double().numpy(), refined.state.estimates.poses.rotation.numpy())
    along = np.abs(apart[:, 2, 2])
    assert np.median(np.degrees(np.arccos(np.clip(along, -1, 1)))) < 3.0


def test_images_that_choose_another_copy_have_not_moved() -> None:
    truth = torch.from_numpy(Rotation.random(N, rng=2).as_matrix())
    turned = truth @ torch.from_numpy(C4.rotations[np.arange(N) % 4])
    assert float(degrees_between(truth, turned, C4).max()) < 1e-4
    assert float((degrees_between(truth, turned) > 80).double().mean()) == pytest.approx(0.75)


def test_a_symmetry_that_nothing_shows_is_not_imposed() -> None:
    monitor = RecordingMonitor()
    assert axes_of(C4, None, monitor) is None
    shown = find_symmetry(_differing_by("D4"))
    assert shown is not None
    assert axes_of(C4, shown, SilentMonitor()) is not None  # a part of it
    assert axes_of(point_group("C3"), shown, monitor) is None
    assert "no symmetry" in monitor.warnings[0]
    assert "D4" in monitor.warnings[1]


def _differing_by(name: str) -> np.ndarray:
    group = point_group(name).rotations
    axes = Rotation.random(rng=8).as_matrix()
    return np.asarray(axes.T @ group[np.random.default_rng(0).integers(len(group), size=400)] @ axes)

"""Point groups that two searches show by how their poses differ, and where the axes are."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryodrgn_ext.fourier.point_groups import point_group
from cryodrgn_ext.pose.found_symmetry import differences, find_symmetry, smallest_deg

N = 1500


def two_searches(name: str, wrong: float = 0.1, noise_deg: float = 2.0, n: int = N) -> tuple[np.ndarray, ...]:
    """Rotations of two searches in the same coordinates, in which the group's axes lie anywhere, and that place."""
    rng = np.random.default_rng(len(name) + ord(name[0]))
    axes = Rotation.random(random_state=rng).as_matrix()
    group = axes.T @ point_group(name).rotations @ axes
    truth = Rotation.random(n, random_state=rng).as_matrix()

    def search() -> np.ndarray:
        noise = Rotation.from_rotvec(np.radians(noise_deg) * rng.normal(size=(n, 3)) / np.sqrt(3)).as_matrix()
        found = truth @ group[rng.integers(len(group), size=n)] @ noise
        lost = rng.random(n) < wrong
        found[lost] = Rotation.random(int(lost.sum()), random_state=rng).as_matrix()
        return found

    return search(), search(), group


@pytest.mark.parametrize("name", ["C2", "C3", "C7", "D2", "D3", "D7", "T", "O", "I"])
def test_the_group_and_its_axes_are_found(name: str) -> None:
    ours, theirs, group = two_searches(name)
    found = find_symmetry(differences(ours, theirs))
    assert found is not None
    assert found.group.name == name
    assert smallest_deg(found.equivalents(), group).max() < 0.5
    assert smallest_deg(group, found.equivalents()).max() < 0.5
    # In the new coordinates the poses of all images differ by RELION's own rotations.
    moved = differences(ours @ found.frame.T, theirs @ found.frame.T)
    assert np.mean(smallest_deg(moved, point_group(name).rotations) < 6.0) > 0.75


def test_poses_that_agree_or_are_wrong_show_none() -> None:
    ours, theirs, _ = two_searches("C1", wrong=0.4)
    assert find_symmetry(differences(ours, theirs)) is None
    rng = np.random.default_rng(5)
    scattered = Rotation.random(N, random_state=rng).as_matrix()
    assert find_symmetry(differences(ours, scattered)) is None


def test_a_few_images_that_are_turned_over_are_no_symmetry() -> None:
    ours, theirs, _ = two_searches("C1", wrong=0.05)
    theirs[: N // 10] = theirs[: N // 10] @ Rotation.from_euler("z", 180, degrees=True).as_matrix()
    assert find_symmetry(differences(ours, theirs)) is None

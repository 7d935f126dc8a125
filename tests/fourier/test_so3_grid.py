"""Grids on SO(3): uniform, without large gaps, and dividing exactly."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from cryodrgn_ext.fourier import so3_grid


def angle_deg(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    trace = np.einsum("...ij,...ij->...", a, b)
    return np.rad2deg(np.arccos(np.clip((trace - 1) / 2, -1, 1)))


def brute_force(level: int, rotation: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Nearest grid rotation of each (N, 3, 3) and its distance in degrees, by quaternions q and -q."""
    q = Rotation.from_matrix(so3_grid.grid(level)).as_quat()
    distance, index = cKDTree(np.concatenate([q, -q])).query(Rotation.from_matrix(rotation).as_quat())
    return index % len(q), np.rad2deg(4 * np.arcsin(distance / 2))


@pytest.fixture(scope="module")
def random_rotations() -> NDArray[np.float64]:
    return Rotation.random(100_000, random_state=0).as_matrix()


@pytest.mark.parametrize(("level", "count", "spacing"), [(0, 576, 30.0), (1, 4608, 15.0), (2, 36864, 7.5)])
def test_sizes_and_gaps(level: int, count: int, spacing: float, random_rotations: NDArray[np.float64]) -> None:
    grid = so3_grid.grid(level)
    assert grid.shape == (count, 3, 3)
    assert so3_grid.n_rotations(level) == count
    assert so3_grid.spacing_deg(level) == spacing
    assert np.allclose(grid @ grid.swapaxes(1, 2), np.eye(3), atol=1e-12)
    assert np.allclose(np.linalg.det(grid), 1.0)
    index, gap = brute_force(level, random_rotations)
    assert gap.max() < 0.95 * spacing  # the largest hole
    assert gap.mean() < 0.5 * spacing
    # Uniform: as many rotations come to each as chance has it (cells have one volume, though not one shape).
    counts = np.bincount(index, minlength=count)
    expected = len(random_rotations) / count
    assert counts.std() < 1.2 * np.sqrt(expected) + 0.1 * expected


def test_neighbours_keep_their_distance() -> None:
    q = Rotation.from_matrix(so3_grid.grid(1)).as_quat()
    distance, _ = cKDTree(np.concatenate([q, -q])).query(q, k=2)
    apart = np.rad2deg(4 * np.arcsin(distance[:, 1] / 2))
    assert apart.min() > 0.8 * 15.0
    assert apart.max() < 1.05 * 15.0


@pytest.mark.parametrize("level", [0, 1, 4])
def test_children_divide_their_parent(level: int) -> None:
    index = np.arange(so3_grid.n_rotations(level)) if level < 2 else np.arange(0, so3_grid.n_rotations(level), 997)
    children = so3_grid.children(level, index)
    assert children.shape == (len(index), 8)
    assert len(np.unique(children)) == 8 * len(index)
    if level < 2:
        assert children.min() == 0
        assert children.max() == so3_grid.n_rotations(level + 1) - 1
    assert (so3_grid.parents(level + 1, children) == index[:, None]).all()
    # They surround it closely, everywhere on the sphere, and the mean of all eight is the parent.
    away = angle_deg(so3_grid.rotations(level + 1, children), so3_grid.rotations(level, index)[:, None])
    assert away.max() < 0.7 * so3_grid.spacing_deg(level)
    middle = Rotation.from_matrix(so3_grid.rotations(level + 1, children).mean(1)).as_matrix()
    assert angle_deg(middle, so3_grid.rotations(level, index)).max() < 0.25 * so3_grid.spacing_deg(level)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_nearest_agrees_with_brute_force(level: int, random_rotations: NDArray[np.float64]) -> None:
    some = random_rotations[:3000]
    _, gap = brute_force(level, some)
    assert angle_deg(so3_grid.rotations(level, so3_grid.nearest(level, some)), some) == pytest.approx(gap, abs=1e-6)
    mine = np.arange(so3_grid.n_rotations(level))[::7].reshape(-1, 1)
    assert np.array_equal(so3_grid.nearest(level, so3_grid.rotations(level, mine)), mine)


def test_rotation_turns_the_view_into_the_image_axis() -> None:
    """One view has all its in-plane angles in a row: the same third row of R, the first turning in equal steps."""
    rows = so3_grid.rotations(1, np.arange(24) + 24 * 100)
    assert np.allclose(rows[:, 2], rows[0, 2])
    assert np.allclose(angle_deg(rows, np.roll(rows, 1, axis=0)), 15.0)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_quads_see_the_model_at_mirrored_frequencies(level: int) -> None:
    quads = so3_grid.quads(level)
    assert np.array_equal(np.sort(quads.ravel()), np.arange(so3_grid.n_rotations(level)))
    members = so3_grid.rotations(level, quads)
    for member, signs in enumerate([(1, 1, 1), (-1, -1, 1), (1, -1, -1), (-1, 1, -1)]):
        assert np.allclose(members[:, member], np.diag(signs) @ members[:, 0], atol=1e-12)


def test_wrong_indices_and_levels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.\.575"):
        so3_grid.rotations(0, np.array([576]))
    with pytest.raises(ValueError, match="level 4"):
        so3_grid.grid(4)
    with pytest.raises(ValueError, match="no parents"):
        so3_grid.parents(0, np.array([0]))
    with pytest.raises(ValueError, match="level must"):
        so3_grid.spacing_deg(-1)

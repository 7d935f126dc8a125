from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import KDTree

from cryodrgn_ext.analysis.trajectories import (
    along_component,
    anchor_particles,
    nearest_of_frames,
    straight,
    through_density,
    through_graph,
)
from cryodrgn_ext.errors import InputError


def ring(n: int = 3000, gap_deg: float = 60.0, noise: float = 0.05, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Particles on a ring that is open around angle 0, in three dimensions, and their angles."""
    rng = np.random.default_rng(seed)
    angle = np.deg2rad(rng.uniform(gap_deg / 2, 360 - gap_deg / 2, n))
    z = np.stack([np.cos(angle), np.sin(angle), np.zeros(n)], 1) + noise * rng.normal(size=(n, 3))
    return z.astype(np.float32), np.rad2deg(angle)


def test_along_a_component() -> None:
    rng = np.random.default_rng(0)
    axis = np.array([3.0, 4.0, 0.0]) / 5
    along = rng.uniform(-10, 10, 5000)
    z = along[:, None] * axis + 0.1 * rng.normal(size=(5000, 3)) + [1.0, 2.0, 3.0]
    trajectory = along_component(z, 1, 5, (10, 90))
    steps = np.diff(trajectory.z, axis=0)
    np.testing.assert_allclose(steps, np.broadcast_to(steps[0], steps.shape), atol=1e-4)
    np.testing.assert_allclose(np.abs(steps[0] @ axis), np.linalg.norm(steps[0]), rtol=1e-3)
    projected = (trajectory.z - z.mean(0)) @ axis
    expected = np.percentile((z - z.mean(0)) @ axis, [10, 90])
    np.testing.assert_allclose(np.sort(projected[[0, -1]]), expected, atol=0.02)
    np.testing.assert_allclose(trajectory.position, np.linspace(0, trajectory.position[-1], 5), rtol=1e-5)


def test_straight_lines_are_evenly_spaced_and_pass_the_anchors() -> None:
    trajectory = straight(np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 1.0]]), 9)
    np.testing.assert_allclose(trajectory.position, np.linspace(0, 4, 9))
    np.testing.assert_allclose(trajectory.z[6], [3.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(trajectory.z[-1], [3.0, 1.0], atol=1e-6)


@pytest.mark.parametrize("method", [through_graph, through_density])
def test_paths_stay_on_data_where_a_line_leaves_it(method: object) -> None:
    z, angle = ring()
    anchors = [int(np.abs(angle - 40).argmin()), int(np.abs(angle - 320).argmin())]
    trajectory = method(z, anchors)  # type: ignore[operator]
    distance = KDTree(z).query(trajectory.z)[0]
    assert distance.max() < 0.1
    frame_angle = np.rad2deg(np.unwrap(np.arctan2(trajectory.z[:, 1], trajectory.z[:, 0])))
    assert frame_angle[-1] - frame_angle[0] == pytest.approx(280, abs=4)
    line = straight(z[anchors], trajectory.n_frames)
    assert KDTree(z).query(line.z)[0].max() > 0.2


def test_density_weighted_path_prefers_the_populated_way() -> None:
    """Two ways of one length around a ring, one of them with a tenth of the particles."""
    rng = np.random.default_rng(1)
    angle = np.concatenate([rng.uniform(0, 180, 4000), rng.uniform(180, 360, 400)])
    z = np.stack([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))], 1) + 0.05 * rng.normal(size=(4400, 2))
    anchors = [int(np.abs(angle - 2).argmin()), int(np.abs(angle - 178).argmin())]
    trajectory = through_density(z, anchors, n_frames=15)
    assert trajectory.z[2:-2, 1].min() > 0
    steps = np.diff(trajectory.position)
    assert steps.std() < 0.3 * steps.mean()


def test_graph_path_visits_particles_and_can_be_thinned() -> None:
    z, angle = ring()
    anchors = [int(np.abs(angle - value).argmin()) for value in (40, 180, 320)]
    whole = through_graph(z, anchors)
    assert KDTree(z).query(whole.z)[0].max() == 0
    assert {tuple(row) for row in z[anchors].tolist()} <= {tuple(row) for row in whole.z.tolist()}
    few = through_graph(z, anchors, n_frames=8)
    assert few.n_frames == 8
    np.testing.assert_array_equal(few.z[[0, -1]], z[[anchors[0], anchors[-1]]])
    assert {tuple(row) for row in few.z.tolist()} <= {tuple(row) for row in whole.z.tolist()}


def test_a_jump_is_told() -> None:
    z = np.concatenate([ring()[0], ring(seed=1)[0] + 40])
    trajectory = through_graph(z, [0, 1, 3001], mean_neighbors=8, max_neighbors=20)
    assert trajectory.breaks == (1,)
    np.testing.assert_array_equal(trajectory.z[-1], z[3001])


def test_anchors_and_nearest_particles_by_brute_force() -> None:
    z, _ = ring(400)
    points = np.array([[1.0, 0.5, 0.0], [1.01, 0.5, 0.0], [-1.0, 0.0, 0.0]])
    distance = np.linalg.norm(z[None] - points[:, None], axis=2)
    nearest = distance.argmin(axis=1)
    assert nearest[0] == nearest[1]
    assert anchor_particles(z, points).tolist() == [nearest[0], nearest[2]]
    near = nearest_of_frames(z, points, 7)
    np.testing.assert_array_equal(near.index, distance.argsort(axis=1)[:, :7])
    np.testing.assert_allclose(near.distance, np.sort(distance, axis=1)[:, :7], rtol=1e-5)
    assert nearest_of_frames(z[:3], points, 7).index.shape == (3, 3)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda z: along_component(z, 4), "no principal component 4"),
        (lambda z: along_component(z, 1, 1), "at least two frames"),
        (lambda z: along_component(z, 1, 5, (50, 50)), "must rise"),
        (lambda z: straight(z[:1]), "at least two latents"),
        (lambda z: straight(z[[0, 0]]), "nowhere to go"),
        (lambda z: through_graph(z, [5]), "at least two anchors"),
        (lambda z: through_density(z, [5, 5]), "nowhere to go"),
    ],
)
def test_what_is_no_trajectory(make: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make(ring(200)[0])  # type: ignore[operator]

"""Loops among points: circles have one, arcs and clouds have none."""

from __future__ import annotations

import numpy as np
import pytest

from cryodrgn_ext.analysis.loops import closing_gap, closure_of_particles, most_persistent_loop


def distances(points: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(points[:, None] - points[None], axis=2))


def arc(turns: float, n: int = 40) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi * turns, n, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle), 0.3 * np.cos(2 * angle)], axis=1)


def test_a_regular_polygon_closes_at_its_side_and_is_filled_across() -> None:
    n = 30
    found = most_persistent_loop(distances(arc(1.0, n)[:, :2]))
    assert found.birth == pytest.approx(2 * np.sin(np.pi / n))
    assert found.death == pytest.approx(np.sqrt(3), rel=0.02)  # the side of the inscribed triangle


def test_a_bent_circle_with_noise_has_a_loop_and_an_arc_has_none() -> None:
    rng = np.random.default_rng(0)
    assert most_persistent_loop(distances(arc(1.0) + 0.05 * rng.normal(size=(40, 3)))).persistence > 3
    assert most_persistent_loop(distances(arc(0.6) + 0.02 * rng.normal(size=(40, 3)))).persistence < 1.8
    assert most_persistent_loop(distances(rng.normal(size=(40, 3)))).persistence < 1.8


def test_the_gap_of_a_closed_curve_is_a_step_like_all_others() -> None:
    assert closing_gap(arc(1.0)) < 2
    assert closing_gap(arc(0.8)) > 4


def test_few_points_have_no_loop_and_too_many_are_refused() -> None:
    for n in (1, 2, 3):
        assert most_persistent_loop(distances(arc(1.0, n))).persistence == 1.0
    with pytest.raises(ValueError, match="at most 100"):
        most_persistent_loop(np.zeros((101, 101)))


def particles_on_a_curve(turns: float, n: int = 3000) -> np.ndarray:
    rng = np.random.default_rng(4)
    angle = 2 * np.pi * turns * rng.random(n)
    curve = np.stack([np.cos(angle), np.sin(angle), 0.3 * np.cos(2 * angle)], axis=1)
    return np.hstack([curve, np.zeros((n, 2))]) + 0.1 * rng.normal(size=(n, 5))


def test_particles_of_a_motion_that_closes_and_of_others() -> None:
    closed = closure_of_particles(particles_on_a_curve(1.0))
    assert closed is not None
    assert closed.is_closed
    for turns in (0.3, 0.6, 0.8):
        found = closure_of_particles(particles_on_a_curve(turns))
        assert found is not None
        assert not found.is_closed


@pytest.mark.parametrize("seed", range(4))
def test_a_cloud_is_not_closed(seed: int) -> None:
    found = closure_of_particles(np.random.default_rng(seed).normal(size=(2000, 2 + seed)))
    assert found is not None
    assert not found.is_closed


def test_too_few_particles_or_dimensions_say_nothing() -> None:
    rng = np.random.default_rng(0)
    assert closure_of_particles(rng.normal(size=(100, 3))) is None
    assert closure_of_particles(rng.normal(size=(2000, 1))) is None

"""Loops among points: circles have one, arcs and clouds have none."""

from __future__ import annotations

import numpy as np
import pytest

from cryodrgn_ext.analysis.loops import closing_gap, most_persistent_loop


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

"""Views of a part against those of the rest: random parts are not accused, parts by view are."""

from __future__ import annotations

import numpy as np

from cryodrgn_ext.analysis.view_coverage import view_bins, view_coverage


def directions(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-180, 180, n), np.degrees(np.arccos(rng.uniform(-1, 1, n)))


def test_opposite_views_share_a_bin() -> None:
    rot, tilt = directions(2000, 0)
    np.testing.assert_array_equal(view_bins(rot, tilt, 4), view_bins(rot + 180, 180 - tilt, 4))
    assert len(np.unique(view_bins(rot, tilt, 4))) <= 12 * 4**2 * 0.6


def test_random_parts_are_not_accused() -> None:
    rot, tilt = directions(5000, 1)
    rng = np.random.default_rng(2)
    found = [view_coverage(rot, tilt, rng.random(5000) < 0.2) for _ in range(60)]
    assert sum(one is not None and one.is_different for one in found) <= 1
    assert np.mean([one.exchanged for one in found if one is not None]) < 0.05


def test_a_part_by_view_is_told() -> None:
    rot, tilt = directions(5000, 3)
    found = view_coverage(rot, tilt, np.abs(np.cos(np.radians(tilt))) > 0.5)
    assert found is not None
    assert found.is_different
    assert found.exchanged > 0.85  # bins across the border have both
    assert 0.4 < found.covered < 0.7


def test_too_few_say_nothing() -> None:
    rot, tilt = directions(100, 4)
    assert view_coverage(rot, tilt, np.arange(100) < 10) is None

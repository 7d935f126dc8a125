"""Several explorers, or several pages of one, that work on the same result at the same moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryodrgn_ext import durable_files
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.explorer.masks import keep_painted, kept_masks, mask_path
from cryodrgn_ext.explorer.opened_result import OpenedResult
from cryodrgn_ext.explorer.paths import lead_path
from cryodrgn_ext.progress import SilentMonitor
from tests.explorer.conftest import N, Project


def at_once(first: Callable[[], Any], second: Callable[[], Any]) -> list[Any]:
    """What both return, or the InputError that they end with."""

    def outcome(work: Callable[[], Any]) -> Any:
        try:
            return work()
        except InputError as error:
            return error

    with ThreadPoolExecutor(2) as both:
        return list(both.map(outcome, (first, second)))


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have written what they keep, and have seen nobody else's, before one of them gives it its name."""
    meeting, put = threading.Barrier(2), durable_files._put_where_nothing_is

    def wait(temporary: Path, final: Path) -> None:
        meeting.wait(20)
        put(temporary, final)

    monkeypatch.setattr(durable_files, "_put_where_nothing_is", wait)


@pytest.mark.usefixtures("together")
def test_of_two_explorers_that_save_one_new_selection_the_later_is_told(project: Project) -> None:
    explorers = OpenedResult(project.result), OpenedResult(project.result)
    recipes = [{"by": "nearest", "z": [0, 0, 0], "count": count} for count in (50, 70)]
    outcomes = at_once(*(
        lambda one=one, recipe=recipe: one.save("both", recipe, replace=False)
        for one, recipe in zip(explorers, recipes, strict=True)
    ))  # fmt: skip
    (refused,) = [one for one in outcomes if isinstance(one, InputError)]
    assert str(refused) == "there is a selection 'both' already: give another name, or say that it be replaced."
    kept = recipes[[isinstance(one, Path) for one in outcomes].index(True)]
    for explorer in explorers:  # the earlier one's is whole, and both see it
        assert len(explorer.saved("both")) == kept["count"]
        assert next(one for one in explorer.selections() if one["name"] == "both")["recipe"] == kept
    explorers[0].save("both", {"by": "all"}, replace=True)  # said to be
    assert len(explorers[1].saved("both")) == N


@pytest.mark.usefixtures("together")
def test_of_two_masks_of_one_new_name_one_is_kept_with_its_strokes(project: Project) -> None:
    home, strokes = OpenedResult(project.result).home, [[0.0, 0.0, 0.0, 30.0], [8.0, 0.0, 0.0, 50.0]]
    outcomes = at_once(*(
        lambda stroke=stroke: keep_painted(home, "both", [stroke], None, (32, 8.0))
        for stroke in strokes
    ))  # fmt: skip
    assert sorted(isinstance(one, InputError) for one in outcomes) == [False, True]
    assert [one.path for one in kept_masks(home) if one.path.stem == "both"] == [mask_path(home, "both")]
    for suffix in (".mrc", ".json"):
        mask_path(home, "both").with_suffix(suffix).unlink()


def test_of_two_paths_of_one_new_name_one_is_made(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    meeting, mkdir = threading.Barrier(2), Path.mkdir

    def wait(path: Path, *how: Any, **named: Any) -> None:
        if path.name == "twice" and not named:
            meeting.wait(20)
        mkdir(path, *how, **named)

    monkeypatch.setattr(Path, "mkdir", wait)
    explorers = OpenedResult(project.result), OpenedResult(project.result)
    ends = np.array([explorers[0].z[:2], explorers[0].z[2:4]]).tolist()
    outcomes = at_once(*(
        lambda one=one, points=points: lead_path(
            one, "twice", {"method": "line", "points": points}, 2, SilentMonitor(), "cpu"
        )
        for one, points in zip(explorers, ends, strict=True)
    ))  # fmt: skip
    (refused,) = [one for one in outcomes if isinstance(one, InputError)]
    assert "there is a path 'twice' already" in str(refused)
    made = [isinstance(one, dict) for one in outcomes].index(True)
    folder = project.result / "paths/twice"
    np.testing.assert_allclose(np.loadtxt(folder.with_name("twice.txt")), ends[made], rtol=1e-6)
    assert len(list(folder.glob("vol_*.mrc"))) == 2

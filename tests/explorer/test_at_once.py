"""Reconstructions that come without being asked for: when they are short, and until the next selection."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cryodrgn_ext import progress
from cryodrgn_ext.explorer import pace, session
from cryodrgn_ext.explorer.pace import Pace
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps
from cryodrgn_ext.workflow import nearby_maps
from tests.explorer.conftest import Explorer, Project, running


def nearest(count: int) -> dict[str, Any]:
    return {"by": "nearest", "z": [0, 0, 0], "count": count}


def test_what_was_measured_is_what_is_promised() -> None:
    measured = Pace()
    before = measured.seconds(1000, 64)
    measured.measured(90.0, 1000, 64)  # the first one, which compiles what it runs
    assert measured.seconds(1000, 64) == before
    measured.measured(2.0, 1000, 64)
    assert measured.seconds(1000, 64) == pytest.approx(2.0)
    assert measured.seconds(1_000_000, 64) > 100 * measured.seconds(1000, 64)
    assert measured.seconds(1000, 64, copies=60) > 5 * measured.seconds(1000, 64)
    assert measured.seconds(10, 256) > measured.seconds(10, 64)


def test_short_ones_are_begun_and_long_ones_are_offered(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(project.result) as explorer:
        explorer.post("reconstruct", recipe=nearest(100))
        offered = explorer.post("choose", recipe=nearest(100)).plain["reconstruction"]
        assert offered["at_once"]
        assert 0 < offered["seconds"] < pace.AT_ONCE_S
        monkeypatch.setattr(session, "AT_ONCE_S", offered["seconds"] / 2)
        again = explorer.post("choose", recipe=nearest(100)).plain["reconstruction"]
        assert (again["at_once"], again["seconds"]) == (False, offered["seconds"])


def test_nothing_is_begun_that_cannot_be(explorer: Explorer) -> None:
    one_half = {"by": "levels", "column": "half_set", "levels": [0]}
    nobody = {"by": "intersection", "of": [nearest(10), {"by": "invert", "of": [nearest(10)]}]}
    for recipe in (one_half, nobody, nearest(1)):
        assert not explorer.post("choose", recipe=recipe).plain["reconstruction"]["at_once"]
        assert explorer.post("reconstruct", recipe=recipe).status == 400


def test_where_images_are_to_be_prepared_first_it_waits_to_be_asked(project: Project, tmp_path: Path) -> None:
    store = project.result / "checkpoint/images"
    there = store.exists()
    if there:
        store.rename(tmp_path / "images")
    try:
        with running(project.result) as explorer:
            assert explorer.post("choose", recipe=nearest(50)).plain["reconstruction"] == {
                "seconds": None, "at_once": False,
            }  # fmt: skip
    finally:
        if there:
            (tmp_path / "images").rename(store)


def test_a_newer_selection_of_the_page_supersedes_and_that_of_another_does_not(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is under way ends at its next step, and what waits for it never begins; what a click asked for stays."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(*given: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        return reconstruct_half_maps(*given)

    monkeypatch.setattr(nearby_maps, "reconstruct_half_maps", slow)
    monkeypatch.setattr(progress, "POLL_INTERVAL_S", 0.0)
    with ThreadPoolExecutor(5) as pages:

        def ask(count: int, **more: Any) -> Any:
            return pages.submit(lambda: explorer.post("reconstruct", recipe=nearest(count), **more).plain)

        first = ask(50, page="a", at_once=True)
        assert begun.wait(20)
        other, asked = ask(52, page="b", at_once=True), ask(54, page="a")
        explorer.post("choose", recipe=nearest(60), page="a")
        later = ask(60, page="a", at_once=True)
        go_on.set()
        assert first.result(60) == {"superseded": True}
        found = [one.result(60)["facts"]["n"] for one in (other, asked, later)]
    assert found == [52, 54, 60]

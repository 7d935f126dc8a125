"""The explorer in a real headless Chromium with WebGL: open, colour, lasso, save, maps at a click.

Pictures of the page go to the folder that CRYODRGN_EXT_ARTEFACTS names, else into pytest's temporary folder.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import starfile

from tests.explorer.conftest import Project, latents, running
from tests.explorer.test_api import inside
from tests.report.browser import Browser

READY = "document.documentElement.dataset.ready === 'yes'"
SILENT = "document.getElementById('say').textContent === ''"


def choose(browser: Browser, box: str, value: str) -> None:
    act = f"e.value = {value!r}; e.dispatchEvent(new Event('change'));"
    browser.value(f"(e => {{ {act} }})(document.querySelector({box!r}))")
    browser.until(SILENT)


def press(browser: Browser, button: str) -> None:
    browser.value(f"document.querySelector({button!r}).click()")


def seen_at(browser: Browser, points: np.ndarray) -> np.ndarray:
    """Values of both axes at points (n, 2) of the window, by the ends of the axes that the page shows."""
    left, top, width, height, x0, x1, y0, y1 = browser.value(
        "(c => { const b = c.getBoundingClientRect(), d = c.dataset;"
        " return [b.left, b.top, b.width, b.height, +d.x0, +d.x1, +d.y0, +d.y1]; })(document.querySelector('.points'))"
    )
    x = x0 + (points[:, 0] - left) / width * (x1 - x0)
    y = y1 - (points[:, 1] - top) / height * (y1 - y0)
    return np.column_stack([x, y])


@pytest.mark.slow
def test_look_choose_and_carry_back(project: Project, tmp_path: Path) -> None:
    artefacts = Path(os.environ.get("CRYODRGN_EXT_ARTEFACTS") or tmp_path / "artefacts")
    one_state = project.result / "states/state00"
    with (
        running(project.result, one_state) as explorer,
        Browser(tmp_path / "profile", 1500, 1000, webgl=True) as browser,
    ):
        browser.go(explorer.address)
        browser.until(READY)
        assert browser.value("document.querySelectorAll('.panel').length") == 2  # side by side
        choose(browser, ".axis-x", "z1")
        choose(browser, ".axis-y", "z2")
        choose(browser, ".axis-c", "defocus")
        assert "defocus (µm)" in browser.value("document.querySelector('.legend').textContent")
        _lasso_and_save(browser, project)
        _maps_at_a_click(browser)
        _a_million_points(browser)
        press(browser, "#theme")
        browser.screenshot(artefacts / "explorer.png")
        assert (artefacts / "explorer.png").stat().st_size > 20_000
        assert browser.errors == []
        origin = explorer.address.split(explorer.token)[0]
        assert {one for one in browser.requests if not one.startswith((origin, f"blob:{origin}"[:-1]))} == set()
        assert all(explorer.token in one for one in browser.requests if one.startswith(origin))


def _a_million_points(browser: Browser) -> None:
    """More than a million are indexed in another way by the library, which had failed in silence."""
    drawn = browser.value(
        "(async () => { const n = 1000001, x = Float32Array.from({length: n}, (_, k) => Math.sin(k * k));"
        " const s = explorer.panels[1].scatter;"
        " await s.draw(x, x, false, {codes: new Uint8Array(n), colors: ['#112233', '#445566']}, null);"
        " return s.shown.length; })()"
    )
    assert drawn == 1_000_001


def _lasso_and_save(browser: Browser, project: Project) -> None:
    z = latents(project)[:, :2].astype(float)
    x, y = browser.middle(".points")
    offsets = np.array([[-70, -60], [110, -40], [60, 30], [20, 110], [-90, 40], [-70, -60]], float)
    corners = offsets + np.array([x, y])
    steps = [a + (b - a) * t for a, b in itertools.pairwise(corners) for t in np.arange(0, 1, 0.1)]
    press(browser, ".mode-lasso")
    browser.draw([tuple(point) for point in [*steps, corners[-1]]])
    browser.until("document.querySelector('.summary').dataset.n !== undefined")
    browser.until(SILENT)
    press(browser, ".mode-pan")
    drawn = inside(seen_at(browser, corners[:-1]), z)
    recipe = browser.value("explorer.panels[0].selection.recipe")
    wanted = inside(np.array(recipe["corners"]), z)
    assert 10 < wanted.sum() < len(z) - 10
    assert (drawn != wanted).sum() <= 2  # at the very edge of what the mouse drew
    browser.value(
        "(e => { e.value = 'drawn'; e.dispatchEvent(new Event('input')); })(document.querySelector('.save-name'))"
    )
    press(browser, ".save")
    browser.until("document.querySelector('.commands').textContent.includes('--selection drawn')")
    browser.until("!document.querySelector('.write-star').disabled")
    press(browser, ".write-star")
    browser.until("document.querySelector('.back-said').textContent.includes('Selected')")
    original = starfile.read(project.root / "particles.star")["particles"]
    returned = starfile.read(project.result / "selections/drawn.star")["particles"]
    assert list(returned["rlnImageName"]) == list(original["rlnImageName"][wanted])


def _maps_at_a_click(browser: Browser) -> None:
    x, y = browser.value(
        "(s => { const b = s.canvas.getBoundingClientRect(), [x, y] = s.drawing.getScreenPosition(10);"
        " return [b.left + x, b.top + y]; })(explorer.panels[0].scatter)"
    )
    browser.move(x - 4, y)
    browser.move(x, y)
    browser.until("!document.querySelector('.tip').hidden")
    browser.click(x, y)
    browser.until("[...document.querySelectorAll('.viewer')].filter(e => e.dataset.file).length === 2")
    browser.until(SILENT)
    titles = browser.value("[...document.querySelectorAll('.viewer .title')].map(e => e.textContent)")
    assert titles[0].startswith("GENERATED by the model at z =")
    assert titles[1].startswith("RECONSTRUCTED from 100 particles")
    # Both are drawn, from one side.
    views = "explorer.viewers.viewers.map(v => JSON.stringify(v.orientation().elements.map(e => e.toFixed(3))))"
    first, second = browser.value(views)
    assert first == second
    choose(browser, "#cut-axis", "z")
    browser.value("document.getElementById('cut-axis').dispatchEvent(new Event('input'))")
    assert (
        browser.value("explorer.viewers.viewers.map(v => [v.slice !== null, v.surface.visible])") == [[True, False]] * 2
    )
    browser.value("explorer.viewers.cutAt('', 50)")
    painted = "Promise.all(explorer.viewers.viewers.map(async v => (await v.stage.makeImage()).size))"
    assert min(browser.value(painted)) > 5_000

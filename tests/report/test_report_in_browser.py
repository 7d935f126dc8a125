"""A report in a headless Chromium: nothing asked for elsewhere, no complaint, and what a reader does works.

Pictures of the pages go to the folder that CRYODRGN_EXT_ARTEFACTS names, else into pytest's temporary folder.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from cryodrgn_ext.analysis.shown_particles import ShownParticles
from cryodrgn_ext.jobs.landscape import landscape
from cryodrgn_ext.jobs.train import train
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.options.landscape import LandscapeSettings
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.report.page import ReportContent, StateSummary
from cryodrgn_ext.report.page_html import write_report_html
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.simulate import simulate_particles, two_domain_protein, write_relion_project
from tests.report.browser import Browser
from tests.report.test_report import content

N = 900
STATES = 3
# A file may be called anything; this one tries to become part of the page.
WICKED = "<script>document.title='run'<!--.mrcs"


@dataclass(frozen=True)
class Result:
    """A finished train job."""

    root: Path

    @property
    def report(self) -> Path:
        return self.root / "out/report.html"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    root = tmp_path_factory.mktemp("trained")
    particles = simulate_particles(
        N, motion=two_domain_protein(), box_size=32, pixel_size_A=8.0, snr=1.0, max_shift_px=1.0, seed=1
    )
    write_relion_project(root, particles)
    (root / "Particles/particles.mrcs").rename(root / "Particles" / WICKED)
    star = root / "particles.star"
    star.write_text(star.read_text().replace("particles.mrcs", WICKED))
    settings = TrainSettings(
        in_parts=Path("particles.star"), o=Path("out"), engine="subspace", zdim=3, states=STATES, volumes=2,
        device="cpu", seed=3,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        train(settings, SilentMonitor())
    return Result(root)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.fixture
def browser(chromium: Browser) -> Browser:
    chromium.renew()
    return chromium


@pytest.fixture
def artefacts(tmp_path: Path) -> Path:
    return Path(os.environ.get("CRYODRGN_EXT_ARTEFACTS") or tmp_path / "artefacts")


def tip(browser: Browser) -> str:
    """Text beside the mouse; empty when nothing does."""
    shown: str = browser.value("(e => e.hidden ? '' : e.innerText)(document.getElementById('tip'))")
    return shown


_SEARCH = """((steps, pattern) => {
    const tip = document.getElementById("tip");
    for (const [x, y] of steps) {
        const move = new PointerEvent("pointermove", { clientX: x, clientY: y, bubbles: true });
        document.elementFromPoint(x, y)?.dispatchEvent(move);
        if (!tip.hidden && pattern.test(tip.innerText)) return [x, y];
    }
    return null;
})"""


def hover_until(browser: Browser, pattern: str) -> tuple[float, float]:
    """Move over the plot, from its middle outwards, until what is shown there matches.

    The page itself looks for the place, since each move of the mouse takes a frame; the mouse then goes there.
    """
    steps = sorted(((i * 9.0, j * 9.0) for i in range(-50, 51) for j in range(-30, 31)), key=lambda at: np.hypot(*at))
    for _ in range(4):  # pictures that are still being loaded move the plot
        x, y = browser.middle("#plot")
        places = [(x + dx, y + dy) for dx, dy in steps]
        found = browser.value(f"{_SEARCH}({json.dumps(places)}, new RegExp({json.dumps(pattern)}))")
        if found is not None:
            break
        time.sleep(0.25)
    assert found is not None, f"nothing in the plot is described as {pattern}"
    browser.move(*found)
    assert re.search(pattern, tip(browser))
    return found[0], found[1]


def selected_maps(browser: Browser) -> list[str]:
    found: list[str] = browser.value("[...document.querySelectorAll('#selected h3')].map(e => e.textContent)")
    return found


def choose(browser: Browser, box: str, value: str) -> None:
    act = f"e.value = {value!r}; e.dispatchEvent(new Event('change'));"
    browser.value(f"(e => {{ {act} }})(document.getElementById({box!r}))")


def assert_quiet(browser: Browser, page: Path) -> None:
    assert browser.complaints == []
    assert {request.split("#")[0] for request in browser.requests} == {page.as_uri()}


@pytest.mark.slow
def test_the_report_of_a_train_job(result: Result, browser: Browser, artefacts: Path) -> None:
    browser.go(result.report.as_uri())
    assert browser.value("document.documentElement.dataset.ready") == "yes"
    assert "Heterogeneity" in browser.value("document.title")
    charts = browser.value("[...document.querySelectorAll('[data-chart]')].map(e => e.dataset.chart)")
    assert {"fsc", "sizes", "variance", "loss"} <= set(charts)
    assert browser.value("document.querySelectorAll('[data-chart=fsc] polyline').length") == STATES + 1
    assert browser.value("document.querySelectorAll('[data-chart=sizes] rect').length") == STATES
    painted = (
        "(c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size)"
        "(document.getElementById('plot'))"
    )
    assert browser.value(painted) > 50
    assert selected_maps(browser) == ["consensus"]
    assert browser.value("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    browser.screenshot(artefacts / "report_train.png")
    assert (artefacts / "report_train.png").stat().st_size > 20_000
    assert_quiet(browser, result.report)


def test_hover_tells_row_image_and_counts(result: Result, browser: Browser) -> None:
    browser.go(result.report.as_uri())
    hover_until(browser, "particle in row")
    said = tip(browser)
    row = int(re.search(r"particle in row ([\d,]+)", said)[1].replace(",", "")) - 1  # type: ignore[index]
    particles = read_particles(result.root / "particles.star", result.root)
    assert particles.image_name[row] in said
    assert WICKED in said
    with np.load(Layout(result.root / "out").states_table) as table:
        label = table["label"]
    assert f"state {label[row]:02d} {np.count_nonzero(label == label[row]):,} particles" in said
    browser.click("#mode-density")
    at = hover_until(browser, r"\d particle")
    assert not re.match("≈", tip(browser))  # all are drawn, so the count is exact
    browser.move(*at)
    choose(browser, "axis-y", "number of particles")
    hover_until(browser, r"\d particles")
    assert_quiet(browser, result.report)


def test_a_click_shows_the_maps_of_a_state(result: Result, browser: Browser, artefacts: Path) -> None:
    browser.go(result.report.as_uri())
    x, y = hover_until(browser, "state 01")
    browser.run(browser.page.mouse.click(x, y))
    assert selected_maps(browser) == ["state 01"]
    assert browser.value("location.hash") == "#state=1"
    assert browser.value("document.querySelectorAll('#selected img').length") == 6
    assert browser.value("getComputedStyle(document.querySelector('#selected .slices')).display") == "grid"
    faint = "[...document.querySelectorAll('[data-chart=sizes] rect')].map(e => e.getAttribute('opacity'))"
    assert browser.value(faint) == ["0.15", "1", "0.15"]
    browser.screenshot(artefacts / "report_train_state.png")
    browser.click("article[data-state='2']", modifiers=["Shift"])
    assert selected_maps(browser) == ["state 01", "state 02"]
    browser.click("tr[data-state='0']")
    assert selected_maps(browser) == ["state 00"]
    browser.click("[data-chart=sizes] rect")  # the only one selected: nothing is then
    assert selected_maps(browser) == ["consensus"]
    assert_quiet(browser, result.report)


def test_an_address_names_what_is_shown(result: Result, browser: Browser) -> None:
    browser.go(result.report.as_uri() + "#state=0,2&x=UMAP+1&y=UMAP+2&color=rlnDefocusU")
    assert selected_maps(browser) == ["state 00", "state 02"]
    chosen = "['axis-x', 'axis-y', 'color'].map(id => document.getElementById(id).value)"
    assert browser.value(chosen) == ["UMAP 1", "UMAP 2", "rlnDefocusU"]
    assert "rlnDefocusU" in browser.value("document.getElementById('legend').innerText")
    browser.value("void (location.hash = '#state=99,x&x=nothing&color=constructor&mode=__proto__')")
    browser.value("new Promise(resolve => setTimeout(resolve, 200))")
    assert browser.value(chosen) == ["PC 1", "PC 2", "state"]
    assert_quiet(browser, result.report)


def test_every_column_of_numbers_can_be_chosen(result: Result, browser: Browser) -> None:
    browser.go(result.report.as_uri())
    names = browser.value("[...document.getElementById('color').options].map(option => option.value)")
    for wanted in ("state", "PC 3", "UMAP 2", "z 1", "z 3", "rlnDefocusU", "rlnRandomSubset", "rlnAngleTilt",
                   "view, Mollweide x", "density of the particles (log10)",
                   "standard error of the latent"):  # fmt: skip
        assert wanted in names
    assert "rlnImageName" not in names
    for name in names:
        choose(browser, "color", name)
        choose(browser, "axis-x", name)
    choose(browser, "color", "rlnRandomSubset")
    assert browser.value("document.getElementById('legend').innerText.split(/\\s+/)") == ["1", "2"]
    assert_quiet(browser, result.report)


def test_a_drawn_rectangle_zooms(result: Result, browser: Browser) -> None:
    browser.go(result.report.as_uri())
    x, y = browser.middle("#plot")
    assert browser.value("document.getElementById('whole').disabled")
    browser.draw([(x - 60, y - 60), (x + 60, y + 60)])
    assert not browser.value("document.getElementById('whole').disabled")
    browser.click("#whole")
    assert browser.value("document.getElementById('whole').disabled")
    assert selected_maps(browser) == ["consensus"]
    assert_quiet(browser, result.report)


def test_without_scripts_there_are_still_pictures(result: Result, browser: Browser, artefacts: Path) -> None:
    browser.run(browser.devtools.send("Emulation.setScriptExecutionDisabled", {"value": True}))
    browser.go(result.report.as_uri())
    # The protocol still evaluates expressions.
    widths = browser.value(
        "[...document.querySelectorAll('noscript img')].map(image => image.complete ? image.naturalWidth : 0)"
    )
    assert len(widths) >= 6
    assert min(widths) > 100
    assert browser.value("document.querySelectorAll('article img').length") == 6 * (STATES + 1)
    assert browser.value("getComputedStyle(document.querySelector('.explore')).display") == "none"
    browser.screenshot(artefacts / "report_without_scripts.png")
    assert_quiet(browser, result.report)


def test_the_report_of_a_landscape(result: Result, browser: Browser, tmp_path: Path, artefacts: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(result.root)
        settings = LandscapeSettings(in_parts=Path("out"), o=tmp_path / "land", sketch=60, clusters=4, bootstrap=3)
        landscape(settings, SilentMonitor())
    page = tmp_path / "land/report.html"
    browser.go(page.as_uri() + "#state=1")
    assert selected_maps(browser) == ["state 01"]
    axes = "['axis-x', 'axis-y'].map(id => document.getElementById(id).value)"
    assert browser.value(axes) == ["volume PC 1", "volume PC 2"]
    hover_until(browser, r"state 01 \d+ particles")
    assert browser.value("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert browser.value("document.querySelectorAll('.figures img').length") >= 6
    browser.screenshot(artefacts / "report_landscape.png")
    assert_quiet(browser, page)


def wicked_content() -> ReportContent:
    markup = "</script></noscript><script>document.title='run'</script><img src=//else.invalid/a onerror=alert(1)>$"
    base = content(views=True)
    assert base.z is not None
    index = np.arange(len(base.z))
    return replace(
        base,
        title=f"Title {markup}", command=markup, settings={markup: markup}, versions={markup: markup},
        messages=[markup], files={markup: markup}, group_name=f"state{markup}", date=markup, seconds={markup: 1.0},
        loss_history={markup: [1.0, 2.0]}, truth={markup: 0.5},
        states=[replace(state, label=f"{state.label}{markup}", verdict=markup) for state in base.states],
        shown=ShownParticles(index, index + 1, {markup: index * 1.0}, (markup,), index * 0, index + 1),
    )  # fmt: skip


def test_names_from_files_do_not_become_markup(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_report_html(page, wicked_content())
    browser.go(page.as_uri())
    hover_until(browser, "particle in row")
    assert "</script>" in tip(browser)
    assert browser.value("document.title").startswith("Title </script>")
    assert browser.value("document.scripts.length") == 2
    assert browser.value("document.querySelectorAll('[onerror]').length") == 0
    assert_quiet(browser, page)


def test_states_without_latents_are_selected_as_well(browser: Browser, tmp_path: Path, artefacts: Path) -> None:
    page = tmp_path / "report.html"
    base = content(views=True)
    write_report_html(page, replace(base, z=None, clusters=None, embedding=None, colorings={}, group_name="state"))
    browser.go(page.as_uri() + "#state=1")
    assert selected_maps(browser) == ["state 1"]
    assert browser.value("document.getElementById('plot')") is None
    browser.screenshot(artefacts / "report_states_only.png")
    assert_quiet(browser, page)


def test_one_dimension_and_one_structure(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_report_html(page, content(q=1))
    browser.go(page.as_uri())
    assert browser.value("document.getElementById('axis-y').value") == "number of particles"
    hover_until(browser, r"\d particles")
    homogeneous = ReportContent(
        "Homogeneous", "cryodrgn-ext train --zdim 0", loss_history={"total": [1.0, float("nan")]},
        states=[StateSummary("state 00", 10)],
    )  # fmt: skip
    write_report_html(page, homogeneous)
    browser.go(page.as_uri())
    assert browser.value("document.documentElement.dataset.ready") == "yes"
    assert_quiet(browser, page)


def test_the_watch_sees_what_a_page_asks_for(browser: Browser, tmp_path: Path) -> None:
    """Without this the tests above would pass with a watch that is blind."""
    page = tmp_path / "page.html"
    page.write_text("<img src='http://elsewhere.invalid/a.png'><script>console.log('said'); missing()</script>")
    browser.go(page.as_uri())
    assert any("elsewhere.invalid" in request for request in browser.requests)
    assert any("said" in text for text, is_error in browser.complaints if not is_error)
    assert any("missing is not defined" in text for text in browser.errors)

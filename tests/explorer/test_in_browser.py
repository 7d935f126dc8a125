"""The explorer in a real headless Chromium with WebGL: open, colour, lasso, save, a job of RELION, maps at a click.

Pictures of the page go to the folder that CRYODRGN_EXT_ARTEFACTS names, else into pytest's temporary folder.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import threading
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
from numpy.typing import NDArray

from cryodrgn_ext.cli import main
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.explorer import half_grid
from cryodrgn_ext.explorer.again import Loop, Say
from cryodrgn_ext.report.page_data import charts_of_page
from tests.explorer.conftest import ODD_COLUMNS, Project, latents, running
from tests.explorer.page_in_browser import (
    READY,
    SILENT,
    at_once,
    carry_back,
    choose,
    fetched,
    lasso,
    press,
    save,
    seen_at,
    within,
)
from tests.report.browser import Browser


@pytest.mark.slow
@pytest.mark.relion
def test_look_choose_and_carry_back(project: Project, tmp_path: Path) -> None:
    artefacts = Path(os.environ.get("CRYODRGN_EXT_ARTEFACTS") or tmp_path / "artefacts")
    one_state = project.result / "states/state00"
    with (
        running(project.result, one_state) as explorer,
        Browser(1500, 1000, webgl=True) as browser,
    ):
        browser.go(explorer.address)
        browser.until(READY)
        assert browser.value("document.querySelectorAll('.panel').length") == 2  # side by side
        _selections_are_reconstructed_at_once(browser)
        choose(browser, ".axis-x", "z1")
        choose(browser, ".axis-y", "z2")
        choose(browser, ".axis-c", "defocus")
        assert "defocus (µm)" in browser.value("document.querySelector('.legend').textContent")
        wanted = _lasso_and_save(browser, project)
        _a_relion_job_is_made(browser, project, wanted)
        _maps_at_a_click(browser, project, tmp_path / "clicked")
        _a_mask_is_painted(browser)
        _paths_are_drawn_and_played(browser, project)
        _curves_are_those_of_the_report(browser, project)
        _junk_is_left_out(browser, project)
        _a_million_points(browser)
        press(browser, "#theme")
        browser.screenshot(artefacts / "explorer.png")
        assert (artefacts / "explorer.png").stat().st_size > 20_000
        assert browser.errors == []
        origin = explorer.address.split(explorer.token)[0]
        assert {one for one in browser.requests if not one.startswith((origin, f"blob:{origin}"[:-1]))} == set()
        assert all(explorer.token in one for one in browser.requests if one.startswith(origin))
        _others_get_nothing(browser, explorer.address, origin)


def _selections_are_reconstructed_at_once(browser: Browser) -> None:
    """Without a click, each in the place of the one before; not where that is switched off."""
    assert browser.value("document.querySelector('.at-once').checked")
    title = "[...document.querySelectorAll('.viewer .title span')].map(e => e.textContent)"
    for count in (60, 80):
        browser.value(f"void explorer.panels[0].selection.choose({{by: 'nearest', z: [0, 0, 0], count: {count}}})")
        browser.until(f"({title}).join().includes('RECONSTRUCTED from {count} particles')")
        browser.until("document.querySelector('.reconstruct-said').textContent === ''")
        (said,) = browser.value(title)
        assert f"{count} particles, selection not saved" in said
        assert browser.value("document.querySelectorAll('.viewer .facts svg').length") > 0  # its FSC
        assert "s)" in browser.value("document.querySelector('.reconstruct').textContent")
    # Two choices one after the other: what is shown in the end is the later one.
    browser.value(
        "(() => { const { selection } = explorer.panels[0]; for (const count of [90, 100])"
        " selection.choose({by: 'nearest', z: [0, 0, 0], count}); })()"
    )
    browser.until(f"({title}).join().includes('RECONSTRUCTED from 100 particles')")
    browser.until("document.querySelector('.reconstruct-said').textContent === ''")
    assert browser.value(f"({title}).length") == 1
    at_once(browser, False)
    browser.value("explorer.panels[0].selection.choose({by: 'nearest', z: [0, 0, 0], count: 40})")
    browser.value("explorer.panels[0].selection.set(null)")
    browser.until(SILENT)
    assert browser.value(f"({title}).length") == 1
    browser.value("explorer.viewers.remove(explorer.viewers.viewers[0])")
    browser.value("delete document.querySelector('.summary').dataset.n")


def _others_get_nothing(browser: Browser, address: str, origin: str) -> None:
    """A way out of the result is none, with the secret; without it there is no page."""
    outside = ("..%2F..%2Fparticles.star", "%2Fetc%2Fpasswd", "paths%2F..%2F..%2Fjob.yaml", "paths/../job.yaml")
    for path in outside:
        status = browser.value(f"fetch({json.dumps(f'{address}api/results/0/maps/{path}')}).then(one => one.status)")
        assert status in (400, 404)
    browser.renew()
    for wrong in (origin, f"{origin}wrong/", f"{origin}wrong/api/results"):
        browser.go(wrong)
        assert browser.value("document.body.textContent").startswith("Forbidden: open the whole address")
        assert browser.value("document.scripts.length") == 0


def _a_mask_is_painted(browser: Browser) -> None:
    """A ball lies where the line of sight meets the surface of the map, and the mask finds particles."""
    press(browser, "#brush-add")
    browser.value("document.getElementById('brush-radius').value = 30; explorer.viewers.painting.radius = 30")
    x, y = browser.middle(".viewer .stage")
    before = browser.value("explorer.viewers.viewers[0].orientation().elements")
    browser.draw([(x, y)])
    assert browser.value("explorer.viewers.viewers[0].orientation().elements") == before  # painted, not turned
    (ball,) = browser.value("explorer.viewers.painting.strokes")
    assert ball[3] == 30
    # NGL's own way from a place to the canvas leads back to the mouse, and the map is at the level there.
    found = browser.value(
        f"""(() => {{ const v = explorer.viewers.viewers[0], {{ volume }} = v;
        const size = explorer.viewers.painting.voxel(volume);
        const index = {ball[:3]}.map(a => a / size + Math.floor(volume.nx / 2));
        const at = new NGL.Vector3(...index).applyMatrix4(volume.matrix);
        const seen = v.stage.viewerControls.getPositionOnCanvas(at), [i, j, k] = index.map(Math.round);
        const box = v.place.getBoundingClientRect();
        return [box.left + seen.x, box.bottom - seen.y, volume.data[(k * volume.ny + j) * volume.nx + i],
                volume.getValueForSigma(explorer.viewers.sigma)]; }})()"""
    )
    assert found[:2] == pytest.approx([x, y], abs=1.5)
    assert found[2] >= found[3]
    press(browser, "#keep-mask")
    browser.until("document.querySelector('.mask-name').value === 'mask1'")
    browser.until(SILENT)
    press(browser, ".compare-mask")
    browser.until("document.querySelectorAll('.within tr').length === 3")
    press(browser, ".choose-mask")
    browser.until("explorer.panels[0].selection.recipe?.column === 'mask:mask1.mrc:has'")
    browser.until(SILENT)
    chosen = browser.value("Array.from(explorer.panels[0].selection.positions)")
    has = browser.value("(async () => Array.from(await explorer.panels[0].column('mask:mask1.mrc:has')))()")
    assert chosen == np.flatnonzero(np.array(has) >= 0.5).tolist()
    assert 0 < len(chosen) < len(has)


def _paths_are_drawn_and_played(browser: Browser, project: Project) -> None:
    x, y = browser.middle(".points")
    press(browser, ".mode-path")
    corners = np.round([[x - 60, y - 40], [x, y + 50], [x + 70, y + 10]])
    browser.draw([tuple(corner) for corner in corners])
    browser.until("document.querySelector('.path-method').value === 'drawn'")
    drawn = np.array(browser.value("explorer.panels[0].path.line.corners"))
    np.testing.assert_allclose(drawn, seen_at(browser, corners), rtol=1e-9)
    browser.value(
        "document.querySelector('.path-frames').value = 2; document.querySelector('.path-name').value = 'seen'"
    )
    press(browser, ".make-path")
    browser.until("document.querySelector('.viewer .play')")
    browser.until(SILENT)
    files = "[...document.querySelectorAll('.viewer .facts a')].map(a => a.textContent)"
    assert {"movie.gif", "movie.mp4", "trajectory.cxc"} <= set(browser.value(files))
    assert len(list((project.result / "paths/seen").glob("vol_*.mrc"))) == 2
    press(browser, ".viewer .play")
    shown = "explorer.viewers.viewers.find(v => v.made.frames).box.dataset.file"
    for frame in (1, 0, 1):
        browser.until(f"{shown} === 'paths/seen/{frame}'")
    press(browser, ".viewer .play")
    press(browser, ".mode-box")
    x, y = np.round(browser.middle(".points"))
    browser.draw([(x - 40, y - 30), (x, y), (x + 50, y + 45)])
    browser.until("explorer.panels[0].selection.recipe?.corners?.length === 4")
    browser.until(SILENT)
    low, high = np.sort(seen_at(browser, np.array([[x - 40, y - 30], [x + 50, y + 45]])), axis=0)
    z = latents(project)[:, :2]
    chosen = browser.value("Array.from(explorer.panels[0].selection.positions)")
    assert chosen == np.flatnonzero(((z >= low) & (z <= high)).all(axis=1)).tolist()
    press(browser, ".mode-pan")


def _curves_are_those_of_the_report(browser: Browser, project: Project) -> None:
    """The same numbers by the same script: as the page of the report, which needs no server."""
    press(browser, ".show-charts")
    browser.until("document.querySelector('.charts .chart')")
    browser.until(SILENT)
    drawn = "[...document.querySelectorAll({!r})].map(e => [e.dataset.chart, e.querySelector('svg').innerHTML])"
    here = browser.value(drawn.format(".charts .chart"))
    assert {name for name, _ in here} == {"fsc", "sizes", "variance", "loss"}
    text = (project.result / "report.html").read_text("utf-8")
    charts = charts_of_page(text)
    assert charts is not None
    assert [chart["name"] for chart in charts] == [name for name, _ in here]
    assert here == browser.value(
        f"(() => {{ const at = document.createElement('div'); at.id = 'again'; document.body.append(at); "
        f"for (const one of {json.dumps(charts)}) cryodrgnCharts.draw(one, at, {{ select: () => 0 }});"
        f" const found = {drawn.format('#again .chart')}; at.remove(); return found; }})()"
    )
    assert len(_fsc_points(browser)) == len(charts[0]["series"][0]["x"])
    # Values by the keyboard, a part of the curve by a drag, and all of it again.
    act = "document.querySelector('.charts [data-chart=fsc] svg').dispatchEvent(new {0}({1!r}, {{bubbles: true, {2}}}))"
    for _ in range(3):
        browser.value(act.format("KeyboardEvent", "keydown", "key: 'ArrowRight'"))
    series = charts[0]["series"][0]
    said = browser.value("document.querySelector('.charts [data-chart=fsc] figcaption').textContent")
    assert float(said.split(" Å: ")[0]) == pytest.approx(1 / series["x"][2], rel=1e-3)
    assert f"{series['label']} {series['y'][2]:.4g}" in said
    left, wide = browser.value(
        "(b => [b.left, b.width])(document.querySelector('.charts [data-chart=fsc] svg').getBoundingClientRect())"
    )
    for event, share in (("pointerdown", 0.5), ("pointerup", 0.9)):
        browser.value(act.format("PointerEvent", event, f"clientX: {left + share * wide}"))
    assert 1 < len(_fsc_points(browser)) < len(series["x"])
    browser.value(act.format("MouseEvent", "dblclick", ""))
    assert len(_fsc_points(browser)) == len(series["x"])


def _fsc_points(browser: Browser) -> list[str]:
    drawn = "document.querySelector('.charts [data-chart=fsc] polyline').getAttribute('points')"
    points: list[str] = browser.value(drawn).split()
    return points


def _junk_is_left_out(browser: Browser, project: Project) -> None:
    press(browser, ".score")
    browser.until("document.querySelector('.axis-c').value === 'image_agreement'")
    browser.until(SILENT)
    browser.value("document.querySelector('.beyond').value = 1.5")
    press(browser, ".choose-outliers")
    browser.until("explorer.panels[0].selection.recipe?.by === 'outliers'")
    browser.until(SILENT)
    count = browser.value("explorer.panels[0].selection.positions.length")
    assert 0 < count < len(latents(project))
    press(browser, ".train-again")
    browser.until("document.querySelectorAll('.again-rows tr').length > 2 && explorer.panels.length === 3")
    browser.until(SILENT)
    assert browser.value("explorer.panels[2].described.n") == len(latents(project)) - count
    assert (project.result / "again/cleaned/compared/report.html").is_file()


def _a_million_points(browser: Browser) -> None:
    """More than a million are indexed in another way by the library, which had failed in silence.

    A part of them is seen at once, all of them a little later, and a part again while the view moves.
    """
    drawn = browser.value(
        "(async () => { const n = 1000001, x = Float32Array.from({length: n}, (_, k) => Math.sin(k * k));"
        " const s = explorer.panels[1].scatter; s.drawing.set({width: 20, height: 20}); s.moving.most = 5000;"
        " await s.draw(x, x, false, {codes: new Uint8Array(n), colors: ['#112233', '#445566']}, null);"
        " const first = s.moving.drawn; await s.moving.finished(); const whole = [s.moving.total, s.moving.whole];"
        " s.key(new KeyboardEvent('keydown', {key: '+'})); s.moving.most = 5000;"
        " await new Promise(done => s.drawing.subscribe('draw', done, 1));"
        " const moved = [s.moving.drawn, s.moving.whole]; await s.moving.finished();"
        " return [first, ...whole, ...moved, s.shown.length]; })()"
    )
    # Near: of what is drawn while it moves, most is in the view, which has a hundredth of the particles.
    within, near = browser.value(
        "(async () => { const s = explorer.panels[1].scatter, { moving } = s; let taken = [];"
        " const own = moving.parts.bind(moving); moving.parts = (...of) => { const found = own(...of);"
        " if (moving.part.share !== null) taken = found; return found; };"
        " moving.most = 5000; s.drawing.set({cameraTarget: [0.1, 0.1], cameraDistance: 0.02});"
        " await new Promise(done => s.drawing.subscribe('draw', done, 1)); delete moving.parts;"
        " const { x, y } = moving.seenNow(), all = s.points.x.reduce((sum, one, k) => sum + (one >= x[0] && one <= x[1]"
        " && s.points.y[k] >= y[0] && s.points.y[k] <= y[1]), 0); let [count, inside] = [0, 0];"
        " for (const [begin, number] of taken) for (let k = begin; k < begin + number; k += 1) { count += 1;"
        " inside += s.points.x[k] >= x[0] && s.points.x[k] <= x[1] && s.points.y[k] >= y[0] && s.points.y[k] <= y[1]; }"
        " await moving.finished(); return [inside / count, all / s.points.x.length]; })()"
    )
    assert 0 < near < 0.02
    assert within > 0.5
    first, total, whole, moved, still_whole, shown = drawn
    assert (total, shown, whole, still_whole) == (1_000_001, 1_000_001, True, False)
    assert 0 < first < total
    assert 0 < moved <= 5001


def _lasso_and_save(browser: Browser, project: Project) -> NDArray[np.bool_]:
    """Return which particles were chosen."""
    corners = lasso(browser)
    wanted = within(browser, corners, latents(project)[:, :2])
    # The outline that is shown is that of the mouse.
    drawn = browser.value("document.querySelector('.drawn path').getAttribute('d')")
    left, top = browser.value("(b => [b.left, b.top])(document.querySelector('.points').getBoundingClientRect())")
    shown = np.array([one.split() for one in drawn.strip("MZ").split("L")], float) + np.array([left, top])
    assert {tuple(one) for one in np.round(shown)} == {tuple(one) for one in corners}
    save(browser, "drawn")
    said, wrong = carry_back(browser, ".write-star")
    assert wrong == ""
    assert "Selected" in said
    original = starfile.read(project.root / "particles.star")["particles"]
    returned = starfile.read(project.result / "selections/drawn.star")["particles"]
    assert list(returned["rlnImageName"]) == list(original["rlnImageName"][wanted])
    return wanted


def _a_relion_job_is_made(browser: Browser, project: Project, wanted: NDArray[np.bool_]) -> None:
    """By RELION's own pipeliner, which then takes the line that the page shows for what comes next."""
    before = set(project.root.glob("External/job*"))
    said, wrong = carry_back(browser, ".relion")
    assert wrong == ""
    (folder,) = set(project.root.glob("External/job*")) - before
    job = f"{folder.relative_to(project.root)}/"
    particles = f"{job}particles.star"
    assert f"{job} is finished" in said
    assert (folder / "RELION_JOB_EXIT_SUCCESS").is_file()
    original = starfile.read(project.root / "particles.star", parse_as_string=list(ODD_COLUMNS))["particles"]
    returned = starfile.read(project.root / particles, parse_as_string=list(ODD_COLUMNS))["particles"]
    assert returned[list(original.columns)].equals(original[wanted].reset_index(drop=True))
    assert (job, particles) in _edges(project, "output", "Process", "ToNode")
    commands = browser.value("document.querySelector('.commands').textContent").splitlines()
    assert commands[-1].split()[0] == "relion_pipeliner"
    assert commands[-1].split()[-1] == job
    (line,) = re.findall(r"(relion_pipeliner --addJob Refine3D .*) adds a job", said)
    subprocess.run(shlex.split(line), cwd=project.root, capture_output=True, timeout=60, check=True)
    edges = _edges(project, "input", "FromNode", "Process")
    (refining,) = [to for node, to in edges if node == particles]
    assert refining.startswith("Refine3D/")
    assert {node for node, to in edges if to == refining} == {particles, "External/train/consensus/map.mrc"}


def _edges(project: Project, kind: str, begin: str, end: str) -> list[tuple[str, str]]:
    table = starfile.read(project.root / "default_pipeline.star", always_dict=True)[f"pipeline_{kind}_edges"]
    columns = [list(table[f"rlnPipeLineEdge{name}"]) for name in (begin, end)]
    return list(zip(*columns, strict=True))


def _the_clicked_map_is_that_of_volumes(browser: Browser, project: Project, folder: Path) -> NDArray[np.float32]:
    """What the page has drawn, and the file that it offers, at the latent that it says; returns the map."""
    row, z, said, title = browser.value(
        "(p => [p.at.row, p.at.z, document.querySelector('.point .said').textContent,"
        " document.querySelector('.viewer .title span').textContent])(explorer.panels[0].point)"
    )
    np.testing.assert_array_equal(np.float32(z), latents(project)[row - 1])
    assert said.startswith(f"Row {row} of your file")
    for text in (said, title):  # three digits of each
        np.testing.assert_allclose([float(one) for one in text.partition("z = ")[2].split()], z, rtol=5e-3)
    folder.mkdir()
    np.savetxt(folder / "z.txt", [z], fmt="%.17g")
    words = ["volumes", str(project.result), "--z", str(folder / "z.txt"), "--o", str(folder / "volumes")]
    main(words, standalone_mode=False)
    with mrcfile.open(folder / "volumes/vol_000.mrc") as file:
        wanted: NDArray[np.float32] = file.data.copy()
    np.testing.assert_array_equal(_drawn(browser), wanted)
    link = "fetch(document.querySelector('.viewer .facts a').href).then(one => one.blob())"
    (folder / "clicked.mrc").write_bytes(fetched(browser, link))
    with mrcfile.open(folder / "clicked.mrc") as file:
        np.testing.assert_array_equal(file.data, wanted)
        assert any(label.startswith("GENERATED by the model at z =") for label in file.get_labels())
    return wanted


def _drawn(browser: Browser) -> NDArray[np.float32]:
    """(z, y, x) values of the first map as the page has drawn its surface."""
    volume = "explorer.viewers.viewers[0].surface.repr.volume"
    shape = browser.value(f"(v => [v.nz, v.ny, v.nx])({volume})")
    return np.frombuffer(fetched(browser, f"Float32Array.from({volume}.data).buffer"), "<f4").reshape(shape)


def _large_maps_are_drawn_on_half_the_grid(browser: Browser, made: NDArray[np.float32]) -> None:
    """In the same place and at the same level; cut on all of it, and drawn on all of it when asked."""
    patch = pytest.MonkeyPatch()
    surface = (
        "(() => { const { repr } = explorer.viewers.viewers[0].surface, at = repr.surface.position;"
        " const axis = k => at.filter((_, i) => i % 3 === k); return [repr.volume.nx,"
        " ...[0, 1, 2].map(k => Math.min(...axis(k))), ...[0, 1, 2].map(k => Math.max(...axis(k)))]; })()"
    )
    whole = browser.value(surface)
    level = "(v => v.volume.getValueForSigma(4))(explorer.viewers.viewers[0])"
    before = browser.value(level)
    patch.setattr(half_grid, "LARGEST_WHOLE", 16)
    browser.value(
        "(async s => { const v = s.viewers[0]; for (const p of v.shown.parts)"
        " v.stage.removeComponent(p); v.drawn.clear(); v.shown = null; await v.load(v.file); v.describe(); })"
        "(explorer.viewers)"
    )
    half = browser.value(surface)
    means = made.reshape(16, 2, 16, 2, 16, 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(_drawn(browser), means, atol=1e-5 * np.abs(means).max())
    assert browser.value(level) == pytest.approx(before, rel=1e-5)  # of the whole map
    browser.value("explorer.viewers.cutAt('z', 50)")
    browser.until("explorer.viewers.viewers[0].slice")
    assert browser.value("explorer.viewers.viewers[0].shown.whole.volume.nx") == whole[0]
    browser.value("explorer.viewers.cutAt('', 50)")
    assert half[0] == whole[0] // 2
    np.testing.assert_allclose(half[1:], whole[1:], atol=8.0)  # a voxel
    press(browser, ".viewer .fine")
    browser.until("!document.querySelector('.viewer .fine') && explorer.viewers.viewers[0].shown")
    browser.until(f"explorer.viewers.viewers[0].surface.repr.volume.nx === {whole[0]}")
    assert browser.value(surface) == whole
    np.testing.assert_array_equal(_drawn(browser), made)
    patch.undo()


def _maps_at_a_click(browser: Browser, project: Project, folder: Path) -> None:
    browser.middle(".points")
    x, y = browser.value(
        "(s => { const b = s.canvas.getBoundingClientRect(), [x, y] = s.drawing.getScreenPosition(s.placeOf[10]);"
        " return [b.left + x, b.top + y]; })(explorer.panels[0].scatter)"
    )
    browser.move(x - 4, y)
    browser.move(x, y)
    browser.until("!document.querySelector('.tip').hidden")
    browser.run(browser.page.mouse.click(x, y))
    browser.until("[...document.querySelectorAll('.viewer')].filter(e => e.dataset.file).length === 2")
    browser.until(SILENT)
    titles = browser.value("[...document.querySelectorAll('.viewer .title')].map(e => e.textContent)")
    assert titles[0].startswith("GENERATED by the model at z =")
    assert titles[1].startswith("RECONSTRUCTED from 100 particles")
    made = _the_clicked_map_is_that_of_volumes(browser, project, folder)
    _large_maps_are_drawn_on_half_the_grid(browser, made)
    # Both are drawn, from one side.
    views = "explorer.viewers.viewers.map(v => JSON.stringify(v.orientation().elements.map(e => e.toFixed(3))))"
    before, second = browser.value(views)
    assert before == second
    browser.value("document.querySelector('.viewer .stage').focus()")
    browser.run(browser.page.keyboard.press("ArrowUp"))
    first, second = browser.value(views)
    assert first == second != before
    choose(browser, "#cut-axis", "z")
    browser.value("document.getElementById('cut-axis').dispatchEvent(new Event('input'))")
    assert (
        browser.value("explorer.viewers.viewers.map(v => [v.slice !== null, v.surface.visible])") == [[True, False]] * 2
    )
    browser.value("explorer.viewers.cutAt('', 50)")
    atoms = "".join(
        f"ATOM  {k:5d}  CA  ALA A{k:4d}    {100 + 3.8 * k:8.3f}{120.0:8.3f}{130.0:8.3f}  1.00  0.00           C\n"
        for k in range(1, 6)
    )
    browser.value(f"explorer.viewers.structure(new File([{atoms!r}], 'model.pdb'))")
    found = "explorer.viewers.viewers.map(v => [v.atoms.structure.atomCount, v.atoms.structure.atomStore.x[4]])"
    assert browser.value(found) == [[5, pytest.approx(119, abs=0.01)]] * 2
    browser.value("explorer.viewers.structure(null)")
    painted = "Promise.all(explorer.viewers.viewers.map(async v => (await v.stage.makeImage()).size))"
    assert min(browser.value(painted)) > 5_000


@pytest.mark.slow
def test_a_page_that_is_loaded_again_in_mid_training_goes_on_watching(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also another page of the same explorer; both are told how it ends."""
    go_on = threading.Event()

    def wait(_loop: Loop, _words: object, _folder: Path, say: Say) -> None:
        say("iteration 3 of 9")
        assert go_on.wait(60)
        raise InputError("the disk is full")

    monkeypatch.setattr(Loop, "run", wait)
    with running(project.result) as explorer, Browser(1500, 1000, webgl=True) as browser:
        recipe = {"by": "nearest", "z": [0, 0, 0], "count": 150}
        for _ in range(2):
            browser.go(explorer.address)
            browser.until(READY)
            if not go_on.is_set() and explorer.post("again").plain is None:
                assert explorer.post("train_again", name="watched", recipe=recipe).status == 200
        browser.until("document.querySelector('.again-said').textContent === 'Running: iteration 3 of 9'")
        at_once(browser, False)
        browser.value(f"explorer.panels[0].selection.choose({json.dumps(recipe)})")
        browser.until(SILENT)
        assert browser.value("document.querySelector('.train-again').disabled")
        go_on.set()
        browser.until("document.querySelector('.again-said').textContent === 'the disk is full'")
        browser.until("!document.querySelector('.train-again').disabled")
        assert browser.errors == []


def _the_gallery_shows_the_stack(browser: Browser, project: Project) -> None:
    """The first canvas of a particle has the pixels of the user's file, and says so."""
    said, wide, tall, drawn = browser.value(
        "(p => { const c = p.querySelector('canvas');"
        " return [p.querySelector('.origin').textContent, c.width, c.height,"
        " Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)]; })"
        "(document.querySelector('.particle'))"
    )
    number = int(said.partition("@")[0])
    assert said.startswith(f"{number}@Particles/particles.mrcs: the stack's own pixels, 32 px, values ")
    with mrcfile.open(project.root / "Particles/particles.mrcs") as file:
        pixels = file.data[number - 1].astype(float)
    low, high = np.percentile(pixels, [0.5, 99.5])
    assert (tall, wide) == pixels.shape
    shown = np.reshape(drawn, (tall, wide, 4))[..., 0]
    np.testing.assert_allclose(shown, 255 * (pixels.clip(low, high) - low) / (high - low), atol=0.51)


@pytest.mark.slow
def test_where_the_model_is_gone_the_page_says_what_needs_it(project: Project, tmp_path: Path) -> None:
    model = project.result / "model"
    aside = model.rename(tmp_path / "model")
    try:
        with running(project.result) as explorer, Browser(1500, 1000, webgl=True) as browser:
            browser.go(explorer.address)
            browser.until(READY)
            said = browser.value("[...document.querySelectorAll('.needs-model')].map(e => e.textContent)")
            assert len(said) == 4
            assert all("the model" in text.lower() for text in said)
            for control in (".mask-file", ".component", ".path-of option"):
                assert browser.value(f"document.querySelector({control!r}).disabled")
            press(browser, ".show-images")
            browser.until("document.querySelectorAll('.particle').length === 12")
            assert "consensus's view" in browser.value("document.querySelector('.particle').title")
            _the_gallery_shows_the_stack(browser, project)
            browser.value("explorer.panels[0].point.take(3)")
            browser.until("document.querySelectorAll('.viewer').length === 1 && explorer.viewers.viewers[0].ready")
            assert "RECONSTRUCTED" in browser.value("document.querySelector('.viewer .title').textContent")
            assert browser.value("document.querySelector('.make-path').disabled")  # until it is known along what
            choose(browser, ".path-method", "pc")
            browser.value("document.querySelector('.path-frames').value = 2")
            press(browser, ".make-path")
            browser.until("document.querySelector('.viewer.reconstructed .play')")
            browser.until(SILENT)
            titles = browser.value("[...document.querySelectorAll('.viewer .title span')].map(e => e.textContent)")
            assert "RECONSTRUCTED from 100 particles, path path1, volumes 1 to 2" in titles[-1]
            assert len(list((project.result / "paths/path1").glob("reconstructed_*.mrc"))) == 2
            assert browser.errors == []
    finally:
        aside.rename(model)

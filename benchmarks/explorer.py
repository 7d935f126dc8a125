"""The explorer with many particles: seconds to the first picture, memory, a lasso, and frames per second.

Run ``python benchmarks/explorer.py`` (a million particles of 30 columns, 8 latents with covariances) from the project's
folder. The page is opened in the headless Chromium of the tests (Playwright and Chromium, as ``bootstrap.py test`` sets
them up), which draws WebGL in software: frames per second are those of this machine's processor, and so is the number
of particles that are drawn while the plot moves.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from metadata_throughput import PARTICLES
from metadata_throughput import generate as generate_star
from throughput import run, timed

from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.results.latent_tables import LatentTable, StateTable, write_latent_table, write_state_table
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.record import fingerprint_file, write_record

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the browser of the tests
from tests.report.browser import Browser

LATENTS, STATES = 8, 10
ADDRESS = re.compile(r"http://127\S+")
READY = "document.documentElement.dataset.ready === 'yes'"
SILENT = "document.getElementById('say').textContent === ''"
PAN_S, PIXELS = 5.0, 3
SCATTER = "explorer.panels[0].scatter"
#: Pictures while the mouse moves: when each was there, and of how many particles.
WATCH = f"""(s => {{ globalThis.watched = [];
  s.drawing.subscribe("draw", () => {{ watched.push([performance.now(), s.moving.drawn]); }}); }})({SCATTER})"""
WHOLE = f"{SCATTER}.moving.finished()"


def generate(directory: Path, n: int, latents: int = LATENTS) -> None:
    """Write a result of a train job on ``n`` particles: latents in a few clouds along a curve."""
    generate_star(directory, n)
    particles = read_particles(directory / PARTICLES, directory)
    rng, layout = np.random.default_rng(0), Layout(directory / "result")
    layout.root.mkdir()
    label = rng.integers(0, STATES, n).astype(np.int32)
    turn = label / STATES * 5
    z = rng.normal(scale=0.3, size=(n, latents)).astype(np.float32)
    z[:, 0] += np.cos(turn)
    z[:, 1] += np.sin(turn)
    covariance = np.broadcast_to(0.05 * np.eye(latents, dtype=np.float32), (n, latents, latents))
    table = LatentTable(z, particles.uid, np.ascontiguousarray(covariance))
    write_latent_table(layout.latents, table, particles.image_name, particles.row_id)
    write_state_table(layout.states_table, StateTable(label, np.arange(STATES)))
    settings = TrainSettings(in_parts=directory / PARTICLES, o=layout.root)
    write_record(layout.root, "train", "finished", settings, {"in_parts": fingerprint_file(directory / PARTICLES)}, {})


@contextmanager
def serving(result: Path, project: Path | None = None) -> Iterator[tuple[str, int]]:
    """Address and process of an explorer."""
    command = [sys.executable, "-m", "cryodrgn_ext", "explore", str(result), "--no_browser"]
    if project is not None:
        command += ["--project", str(project)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = next(filter(None, map(ADDRESS.search, process.stdout)))
        yield found.group(), process.pid
    finally:
        process.terminate()
        process.wait()


def resident_GB(pid: int, peak: bool = False) -> float:
    """Resident memory of a process, now or at most."""
    status = Path(f"/proc/{pid}/status").read_text()
    kilobytes = re.search(rf"{'VmHWM' if peak else 'VmRSS'}:\s+(\d+)", status)
    assert kilobytes is not None
    return int(kilobytes.group(1)) / 1e6


def page_GB(browser: Browser) -> float:
    """Resident memory of all processes of the browser."""
    devtools = browser.run(browser.program.new_browser_cdp_session())
    found = browser.run(devtools.send("SystemInfo.getProcessInfo"))["processInfo"]
    return sum(resident_GB(one["id"]) for one in found)


def measure(directory: Path) -> None:
    """Open the page, and print what it took."""
    begin = time.perf_counter()
    with (
        serving(directory / "result", directory) as (address, pid),
        Browser(1500, 1000, webgl=True) as page,
    ):
        print(f"  {'until the address is printed':<42}{time.perf_counter() - begin:8.2f} s", flush=True)
        with timed("first picture"):
            page.go(address)
            page.until(READY)
        with timed("until all particles are drawn"):
            page.value(WHOLE)
        print(f"  {'server, at most':<42}{resident_GB(pid, peak=True):8.2f} GB")
        print(f"  {'browser, all its processes':<42}{page_GB(page):8.2f} GB")
        with timed("another colour (a column of the file)"):
            page.value("(e => { e.value = 'file:rlnDefocusU'; e.dispatchEvent(new Event('change')); })"
                       "(document.querySelector('.axis-c'))")  # fmt: skip
            page.until(SILENT)
        turn = np.linspace(0, 2 * np.pi, 200)
        polygon = np.column_stack([1.4 * np.cos(turn), 1.1 * np.sin(turn)]).tolist()
        with timed("a polygon of 200 corners, with its summary"):
            page.value(
                f"explorer.panels[0].selection.choose({{by: 'polygon', x: 'pc1', y: 'pc2', corners: {polygon}}})"
            )
        print("  " + page.value("document.querySelector('.summary').textContent"))
        page.value("explorer.panels[0].selection.set(null)")
        pan(page)
        print(f"  ({os.cpu_count()} CPUs, no GPU, {os.getloadavg()[0]:.1f} processes wanted them in the last minute)")


def pan(page: Browser) -> None:
    """Drag the plot as a hand does, and print how many pictures came of it."""
    page.value(WHOLE)
    x, y = page.middle(".points")
    mouse = page.page.mouse
    page.run(mouse.move(x, y))
    page.run(mouse.down())
    page.value(WATCH)
    end, step = time.perf_counter() + PAN_S, 0
    while time.perf_counter() < end:
        step += 1
        page.run(mouse.move(x + PIXELS * abs(step % 60 - 30), y))
    seen = np.array(page.value("watched"))
    page.run(mouse.up())
    with timed("until all are drawn, at rest"):
        page.value(WHOLE)
    waits = np.diff(seen[:, 0])
    print(f"  {'pictures per second while panning':<42}{1000 / waits.mean():8.1f}")
    print(f"  {'  of 20, 19 came within':<42}{np.percentile(waits, 95):8.0f} ms")
    print(f"  {'particles drawn while it moves, median':<42}{np.median(seen[:, 1]):8.0f}", flush=True)


if __name__ == "__main__":
    run(__file__, __doc__, 1_000_000, generate, measure)

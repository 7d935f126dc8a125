"""Seconds from a click on a particle to the map of a subspace model: decoded, fetched, and drawn, at several boxes.

Run ``python benchmarks/explorer_maps.py`` from the project's folder: a model at all frequencies of each box, and
clicks in the headless Chromium of the tests, which draws WebGL in software. The first click comes when the explorer has
had the time to load the model, as where a user looks at the latents first. A map of more than 160 voxels comes on half
its grid, as its surface is drawn; the whole of it when the file or a cut is wanted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from explorer import READY, generate, serving
from landscape_mapping import ZDIM, subspace_model

from cryodrgn_ext.results.layout import Layout

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the browser of the tests
from tests.report.browser import Browser

BOXES, PARTICLES = (64, 128, 256), 2000
LOADING_S = 40
CLICKS = 5
#: Milliseconds until the server has answered, until the file is here, and until the surface is drawn.
CLICK = """(async number => { const p = explorer.panels[0], at = await p.result.plain("point", { position: number });
  const begin = performance.now(), made = await p.result.plain("generated", { z: at.z });
  const decoded = performance.now() - begin;
  await (await fetch(`${p.result.mapPath(made.files.map)}?grid=half`)).arrayBuffer();
  const fetched = performance.now() - begin;
  await p.showMap(made);
  return [decoded, fetched, performance.now() - begin - (fetched - decoded)]; })(%d)"""

WHOLE = """(async () => { const v = explorer.viewers.viewers.at(-1);
  await (await fetch(v.file.href)).arrayBuffer(); })()"""


def make(directory: Path, box: int) -> Path:
    """Write a result with a model of this box; return it."""
    directory.mkdir()
    generate(directory, PARTICLES, ZDIM)
    layout = Layout(directory / "result")
    with np.load(layout.latents) as table:
        model = subspace_model(box, table["z"])
    layout.model.mkdir()
    model.save(layout.model)
    return layout.root


def main() -> None:
    """Measure all boxes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boxes", type=int, nargs="+", default=BOXES)
    for box in parser.parse_args().boxes:
        with tempfile.TemporaryDirectory() as name:
            result = make(Path(name) / "project", box)
            print(f"box {box}", flush=True)
            with (
                serving(result, result.parent) as (address, _),
                Browser(1500, 1000, webgl=True) as page,
            ):
                page.go(address)
                page.until(READY)
                time.sleep(LOADING_S)
                found = [page.value(CLICK % (37 * number)) for number in range(CLICKS)]
                begin = time.perf_counter()
                page.value(WHOLE)
                whole = time.perf_counter() - begin
            words = ("decoded", "in the page", "decoded, fetched and drawn")
            print(f"  {'the whole grid, for the file or a cut':<40}{whole:6.2f} s")
            for what, first, later in zip(words, found[0], zip(*found[1:], strict=True), strict=True):
                print(f"  {what:<28}first {first / 1000:6.2f} s, then {statistics.median(later) / 1000:6.2f} s")
    print(f"({os.cpu_count()} CPUs, {os.getloadavg()[0]:.1f} processes wanted them in the last minute)")


if __name__ == "__main__":
    main()

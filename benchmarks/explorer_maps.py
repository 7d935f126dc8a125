"""Seconds from a click on a particle to the model's map: decoded, fetched, and drawn, at several boxes.

Run ``python benchmarks/explorer_maps.py`` from the project's folder: for each box it simulates particles, learns them
with the subspace engine, and clicks in the headless Chromium of the tests, which draws WebGL in software.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from explorer import READY, serving

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the browser of the tests
from tests.report.browser import Browser

BOXES, PARTICLES, WIDTH_A = (64, 128, 256), 400, 256.0
CLICKS = 5
#: Milliseconds until the server has answered, until the file is here, and until the surface is drawn.
CLICK = """(async number => { const p = explorer.panels[0], at = await p.result.plain("point", { position: number });
  const begin = performance.now(), made = await p.result.plain("generated", { z: at.z });
  const decoded = performance.now() - begin;
  await (await fetch(p.result.mapPath(made.files.map))).arrayBuffer();
  const fetched = performance.now() - begin;
  await p.showMap(made);
  return [decoded, fetched, performance.now() - begin - (fetched - decoded)]; })(%d)"""


def learn(directory: Path, box: int) -> Path:
    """Simulate and learn a set; return the result."""
    ours = [sys.executable, "-m", "cryodrgn_ext"]
    made = ["--particles", str(PARTICLES), "--box", str(box), "--pixel_size_A", str(WIDTH_A / box)]
    subprocess.run([*ours, "simulate", "--o", str(directory), *made, "--snr", "1"], check=True, capture_output=True)
    settings = ["--engine", "subspace", "--zdim", "4", "--states", "2", "--volumes", "2", "--box", str(box)]
    subprocess.run(
        [*ours, "train", "--in_parts", "particles.star", "--o", "result", *settings],
        cwd=directory, check=True, capture_output=True,
    )  # fmt: skip
    return directory / "result"


def main() -> None:
    """Measure all boxes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boxes", type=int, nargs="+", default=BOXES)
    for box in parser.parse_args().boxes:
        with tempfile.TemporaryDirectory() as name:
            begin = time.perf_counter()
            result = learn(Path(name) / "project", box)
            print(f"box {box} ({time.perf_counter() - begin:.0f} s to simulate and learn)", flush=True)
            with serving(result) as (address, _), Browser(Path(name) / "profile", 1500, 1000, webgl=True) as page:
                page.go(address)
                page.until(READY)
                found = [page.value(CLICK % (37 * number)) for number in range(CLICKS)]
            words = ("decoded", "in the page", "decoded, fetched and drawn")
            for what, first, later in zip(words, found[0], zip(*found[1:], strict=True), strict=True):
                print(f"  {what:<28}first {first / 1000:6.2f} s, then {statistics.median(later) / 1000:6.2f} s")
    print(f"({os.cpu_count()} CPUs, {os.getloadavg()[0]:.1f} processes wanted them in the last minute)")


if __name__ == "__main__":
    main()

"""Write the picture of the explorer: ``python docs/make_explorer_picture.py RESULT docs/images/explorer.png``.

A lasso around a part of the particles, the maps at one of them, and a mask painted on them, in the headless Chromium of
the tests.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
from explorer import READY, SILENT, serving

from tests.report.browser import Browser

WIDTH, HEIGHT = 1500, 1090


def main(result: Path, picture: Path) -> None:
    """Open the result, do what a user would do, and write the picture."""
    with (
        tempfile.TemporaryDirectory() as name,
        serving(result) as (address, _),
        Browser(WIDTH, HEIGHT, webgl=True) as page,
    ):
        page.go(address)
        page.until(READY)
        x, y = page.middle(".points")
        page.click(".mode-lasso")
        page.draw([(x + a, y + b) for a, b in ((90, 200), (90, 60), (150, -190), (300, -200), (260, 60), (90, 200))])
        page.until("document.querySelector('.summary').dataset.n !== undefined")
        page.until(SILENT)
        page.click(".mode-pan")
        page.value("(p => p.point.take(p.selection.positions[0]))(explorer.panels[0])")
        page.until("[...document.querySelectorAll('.viewer')].filter(e => e.dataset.file).length === 2")
        page.until(SILENT)
        page.click("#brush-add")
        x, y = page.middle(".viewer .stage")
        page.draw([(x + 20, y), (x + 32, y + 2), (x + 44, y + 4)])
        page.value("scrollTo(0, 0)")
        page.screenshot(Path(name) / "whole.png")
        whole = Image.open(io.BytesIO((Path(name) / "whole.png").read_bytes()))
        whole.crop((0, 0, WIDTH, min(HEIGHT, whole.height))).quantize(128).save(picture, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Debian's Chromium without a window, driven by Playwright: what a test does with one page, one step after the other.

Of Playwright the asynchronous half, whose loop runs within our calls only: events of the mouse can then be sent without
waiting for each, and tests may have loops of their own. Its own browsers are not needed.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from playwright.async_api import ViewportSize, async_playwright

T = TypeVar("T")
Point = tuple[float, float]
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT_S = 90.0
#: There is no network: what a page asks for elsewhere must fail, and is seen to be asked for.
FLAGS = ("--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
#: WebGL in software, and the page put together without it: as browsers do where there is no graphics card.
WEBGL = ("--use-angle=swiftshader", "--ignore-gpu-blocklist", "--disable-gpu-compositing")


class Browser:
    """One page of a headless Chromium; notes what it asks for and what it complains about.

    Attributes
    ----------
    page : playwright.async_api.Page
        Whose methods :meth:`run` waits for.
    devtools : playwright.async_api.CDPSession
        For what Playwright has no word for.
    requests : list of str
        Addresses that the page asked for, the page itself included, ``data:`` left out.
    complaints : list of (str, bool)
        What was written to the console, exceptions, and what the browser refused or failed to load; whether it is an
        error.
    """

    def __init__(self, width: int = 1280, height: int = 900, webgl: bool = False) -> None:
        program = next((found for found in map(shutil.which, PROGRAMS) if found), None)
        assert program is not None, "Chromium is missing: python3.11 bootstrap.py test installs it (apt: chromium)"
        self._runner, self._size = asyncio.Runner(), ViewportSize(width=width, height=height)
        flags = [*FLAGS, *(WEBGL if webgl else ("--disable-gpu",))]
        self.driver = self.run(async_playwright().start())
        self.program = self.run(self.driver.chromium.launch(executable_path=program, args=flags))
        self.renew()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_error: object) -> None:
        self.run(self.program.close())
        self.run(self.driver.stop())
        self._runner.close()

    def renew(self) -> None:
        """Leave the page, with all that the browser remembers of it, for a new one."""
        for former in self.program.contexts:
            self.run(former.close())
        asked, said = list[str](), list[tuple[str, bool]]()
        self.requests, self.complaints = asked, said
        context = self.run(self.program.new_context(viewport=self._size))
        context.on("request", lambda one: None if one.url.startswith("data:") else asked.append(one.url))
        context.on("console", lambda one: said.append((one.text, one.type in ("error", "assert"))))
        context.on("weberror", lambda one: said.append((str(one.error), True)))
        self.page = self.run(context.new_page())
        self.devtools = self.run(context.new_cdp_session(self.page))

    @property
    def errors(self) -> list[str]:
        """What was complained about, mere remarks left out."""
        return [text for text, is_error in self.complaints if is_error]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for something of Playwright's."""
        return self._runner.run(asyncio.wait_for(work, TIMEOUT_S))

    def go(self, address: str) -> None:
        """Open an address and wait until it is loaded."""
        self.run(self.page.goto(address))

    def value(self, expression: str) -> Any:
        """Evaluate JavaScript in the page."""
        return self.run(self.page.evaluate(expression))

    def until(self, expression: str) -> None:
        """Wait until JavaScript in the page is true; Playwright's own way needs a page that may make code of text."""
        self.value(
            f"new Promise(done => {{ const look = () => ({expression}) ? done(1) : setTimeout(look, 30); look() }})"
        )

    def middle(self, selector: str) -> Point:
        """Scroll an element into view and return its middle in the window."""
        x, y = self.value(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center'});"
            " const b = e.getBoundingClientRect(); return [b.left + b.width / 2, b.top + b.height / 2]; })()"
        )
        return x, y

    def move(self, x: float, y: float) -> None:
        """Move the mouse to a point of the window."""
        self.run(self.page.mouse.move(x, y))

    def click(self, selector: str, **how: Any) -> None:
        """Click with the left button, when the element is seen and nothing lies over it."""
        self.run(self.page.click(selector, **how))

    def draw(self, points: Sequence[Point]) -> None:
        """Press at the first point of the window, move over the others, and release at the last.

        Quicker than any hand: no step waits until the page has seen the one before.
        """
        kinds = ["mouseMoved", "mousePressed", *["mouseMoved"] * (len(points) - 1), "mouseReleased"]
        button = {"button": "left", "clickCount": 1}

        async def send() -> None:
            waiting = []
            for number, (kind, (x, y)) in enumerate(zip(kinds, [points[0], *points, points[-1]], strict=True)):
                held = {} if number == 0 else {**button, "buttons": 1} if kind == "mouseMoved" else button
                step = {"type": kind, "x": x, "y": y, **held}
                waiting.append(self.devtools.send("Input.dispatchMouseEvent", step))
            await asyncio.gather(*waiting)

        self.run(send())

    def screenshot(self, path: Path) -> None:
        """Write the whole page as a PNG file."""
        self.run(self.page.screenshot(path=path, full_page=True))

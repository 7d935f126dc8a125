"""A headless Chromium, spoken to over its DevTools protocol through a pair of pipes: no port, no further packages."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT_S = 90.0
FLAGS = (
    "--headless", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--remote-debugging-pipe",
    # There is no network: what a page asks for elsewhere must fail, and is seen to be asked for.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
WITHOUT_GPU = ("--disable-gpu",)
#: WebGL in software, and the page put together without it: as browsers do where there is no graphics card.
WEBGL = (
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist", "--disable-gpu-compositing",
)  # fmt: skip


class Browser:
    """One page of a headless Chromium; records what it asks for and what it complains about.

    Attributes
    ----------
    requests : list of str
        Addresses that the page asked for, the page itself included, ``data:`` left out.
    complaints : list of str
        What was written to the console, exceptions, and what the browser refused or failed to load.
    errors : list of str
        Those of them that are errors.
    """

    def __init__(self, profile: Path, width: int = 1280, height: int = 900, webgl: bool = False) -> None:
        program = next((found for found in map(shutil.which, PROGRAMS) if found), None)
        assert program is not None, "Chromium is missing: python3.11 bootstrap.py test installs it (apt: chromium)"
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.errors: list[str] = []
        self._number, self._events, self._answers = 0, 0, dict[int, dict[str, Any]]()
        self._loaded, self._rest = False, b""
        to_browser, self._to = os.pipe()
        self._from, from_browser = os.pipe()
        # Chromium reads its descriptor 3 and writes to 4.
        script = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        flags = (*FLAGS, *(WEBGL if webgl else WITHOUT_GPU))
        arguments = [*flags, f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", program, *arguments],
            pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._session = ""
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._session = ""
            self.call("Browser.close")
            self._process.wait(20)
        except (OSError, TimeoutError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)

    @property
    def pid(self) -> int:
        """The browser's first process."""
        return self._process.pid

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        return self._answer(method, self._send(method, parameters))

    def _send(self, method: str, parameters: dict[str, Any]) -> int:
        """Send a call without waiting; return its number."""
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        return number

    def _answer(self, method: str, number: int) -> dict[str, Any]:
        """Wait for the result of a call that was sent."""
        end = time.monotonic() + TIMEOUT_S
        while number not in self._answers:
            self._receive(end)
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer.get('error')}"
        result: dict[str, Any] = answer["result"]
        return result

    def _receive(self, end: float) -> None:
        ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            raise TimeoutError("Chromium does not answer")
        block = os.read(self._from, 1 << 20)
        if not block:
            raise OSError("Chromium has ended")
        *messages, self._rest = (self._rest + block).split(b"\0")
        for text in messages:
            message = json.loads(text)
            if "id" in message:
                self._answers[message["id"]] = message
            else:
                self._note(message["method"], message["params"])

    def _note(self, method: str, event: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent" and not event["request"]["url"].startswith("data:"):
            self.requests.append(event["request"]["url"])
        elif method == "Runtime.consoleAPICalled":
            self._complain(str(event["args"]), event["type"] in ("error", "assert"))
        elif method == "Runtime.exceptionThrown":
            self._complain(str(event["exceptionDetails"]), True)
        elif method == "Log.entryAdded":
            self._complain(event["entry"]["text"], event["entry"]["level"] == "error")
        elif method == "Page.loadEventFired":
            self._loaded = True

    def _complain(self, text: str, is_error: bool) -> None:
        self.complaints.append(text)
        if is_error:
            self.errors.append(text)

    def open(self, path: Path, fragment: str = "") -> None:
        """Open a file and wait until it is loaded."""
        self.go(path.as_uri() + fragment)

    def go(self, address: str) -> None:
        """Open an address and wait until it is loaded."""
        self._loaded = False
        self.call("Page.navigate", url=address)
        end = time.monotonic() + TIMEOUT_S
        while not self._loaded:
            self._receive(end)

    def value(self, expression: str) -> Any:
        """Evaluate JavaScript in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def move(self, x: float, y: float) -> None:
        """Move the mouse to a point of the window."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float, *, shift: bool = False) -> None:
        """Click with the left button at a point of the window."""
        self.move(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1,
                      modifiers=8 if shift else 0)  # fmt: skip

    def draw(self, points: Sequence[tuple[float, float]], *, at_once: bool = False) -> None:
        """Press at the first point of the window, move over the others, and release at the last.

        ``at_once`` moves quicker than any hand: no step waits until the page has seen the one before.
        """
        self.move(*points[0])
        button = {"button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=points[0][0], y=points[0][1], **button)
        steps = [{"type": "mouseMoved", "x": x, "y": y, "buttons": 1, **button} for x, y in points[1:]]
        steps.append({"type": "mouseReleased", "x": points[-1][0], "y": points[-1][1], **button})
        method = "Input.dispatchMouseEvent"
        if at_once:
            for number in [self._send(method, step) for step in steps]:
                self._answer(method, number)
        else:
            for step in steps:
                self.call(method, **step)

    def until(self, expression: str) -> None:
        """Wait until JavaScript in the page is true; asked again and again by the page itself."""
        self.value(
            f"new Promise(done => {{ const look = () => ({expression}) ? done(1) : setTimeout(look, 30); look() }})"
        )

    def drag(self, begin: tuple[float, float], end: tuple[float, float]) -> None:
        """Press at one point of the window, move, and release at another."""
        self.move(*begin)
        button = {"button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=begin[0], y=begin[1], **button)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=end[0], y=end[1], buttons=1, **button)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=end[0], y=end[1], **button)

    def middle(self, selector: str) -> tuple[float, float]:
        """Scroll an element into view and return its middle in the window."""
        x, y = self.value(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center'});"
            " const b = e.getBoundingClientRect(); return [b.left + b.width / 2, b.top + b.height / 2]; })()"
        )
        return x, y

    def screenshot(self, path: Path) -> None:
        """Write the whole page as a PNG file."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))

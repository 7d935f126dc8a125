"""What a user does with the page of the explorer, in a browser that a test drives."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.explorer.conftest import inside
from tests.report.browser import Browser

READY = "document.documentElement.dataset.ready === 'yes'"
SILENT = "document.getElementById('say').textContent === ''"


def choose(browser: Browser, box: str, value: str) -> None:
    act = f"e.value = {value!r}; e.dispatchEvent(new Event('change'));"
    browser.value(f"(e => {{ {act} }})(document.querySelector({box!r}))")
    browser.until(SILENT)


def press(browser: Browser, button: str) -> None:
    browser.click(button)


def at_once(browser: Browser, wanted: bool) -> None:
    """Whether selections are reconstructed without being asked for, in all results."""
    act = f"if (e.checked !== {str(wanted).lower()}) e.click()"
    browser.value(f"document.querySelectorAll('.at-once').forEach(e => {{ {act} }})")


def seen_at(browser: Browser, points: np.ndarray) -> np.ndarray:
    """Values of both axes at points (n, 2) of the window, by the ends of the axes that the page shows."""
    left, top, width, height, x0, x1, y0, y1 = browser.value(
        "(c => { const b = c.getBoundingClientRect(), d = c.dataset;"
        " return [b.left, b.top, b.width, b.height, +d.x0, +d.x1, +d.y0, +d.y1]; })(document.querySelector('.points'))"
    )
    x = x0 + (points[:, 0] - left) / width * (x1 - x0)
    y = y1 - (points[:, 1] - top) / height * (y1 - y0)
    return np.column_stack([x, y])


def lasso(browser: Browser) -> NDArray[np.float64]:
    """Draw around what is in a star in the middle of the first plot; return its corners (60, 2) in the window."""
    # Of whole pixels as a mouse has them, and many places in each picture that the page draws.
    turn, reach = np.linspace(0, 2 * np.pi, 60, endpoint=False), np.resize([130, 60], 60)
    corners = np.round(np.column_stack([np.cos(turn), np.sin(turn)]) * reach[:, None] + browser.middle(".points"))
    press(browser, ".mode-lasso")
    browser.draw([tuple(point) for point in [*corners, corners[0]]])
    browser.until("document.querySelector('.summary').dataset.n !== undefined")
    browser.until(SILENT)
    press(browser, ".mode-pan")
    return corners


def within(browser: Browser, corners: NDArray[np.float64], values: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which of the values (n, 2) on both axes lie within corners in the window; some do, and some do not."""
    found = inside(seen_at(browser, corners), values.astype(float))
    assert 10 < found.sum() < len(values) - 10
    return found


def save(browser: Browser, name: str) -> None:
    """Keep what is chosen under a name."""
    act = f"e.value = {name!r}; e.dispatchEvent(new Event('input'));"
    browser.value(f"(e => {{ {act} }})(document.querySelector('.save-name'))")
    press(browser, ".save")
    browser.until(f"document.querySelector('.commands').textContent.includes('--selection {name}')")
    browser.until("!document.querySelector('.write-star').disabled")


def carry_back(browser: Browser, button: str) -> tuple[str, str]:
    """Press a button of the card, and wait for the end; return what the card says, and what went wrong."""
    browser.middle(button)  # as the user has it before the eyes
    press(browser, button)
    browser.until(f"!document.querySelector({button!r}).disabled")
    said, wrong, top, height = browser.value(
        "(e => [document.querySelector('.back-said').textContent, e.textContent, e.getBoundingClientRect().top,"
        " innerHeight])(document.getElementById('say'))"
    )
    assert 0 <= top < height  # seen from there
    return said, wrong


def fetched(browser: Browser, expression: str) -> bytes:
    """Bytes that JavaScript in the page has, an ArrayBuffer or a Blob."""
    text: Any = browser.value(
        f"(async () => {{ const blob = new Blob([await ({expression})]), reader = new FileReader();"
        " await new Promise(done => { reader.onload = done; reader.readAsDataURL(blob); });"
        " return reader.result.split(',')[1]; })()"
    )
    return base64.b64decode(text)

"""The report as one HTML file that opens anywhere, offline: pictures, data and script are inside, nothing is fetched.

The script and the style are our own and small (30 kB; a plotting library would add some 4 MB to every report), and the
page's policy names them by their hashes: nothing else can run, and nothing can be requested. Without scripts the same
page shows the static figures of logfile.pdf instead.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from cryodrgn_ext.durable_files import atomic_write_text
from cryodrgn_ext.report.page import (
    CONSENSUS_COLOR,
    ReportContent,
    ReportFigure,
    StateSummary,
    duration,
    group_colors,
    overview,
    share,
    state_rows,
)
from cryodrgn_ext.report.page_data import page_data
from cryodrgn_ext.report.png import data_url, grey_png, shaded_png

DOTS_PER_INCH = 160
DOTS_PER_INCH_OF_FALLBACK = 90  # of figures that are seen only without scripts
CSS_PIXELS_PER_INCH = 96  # fixed by the CSS standard
LARGEST_SLICE = 128
LARGEST_SLICE_OF_MANY = 88
MANY_STATES = 16
NORMALS = ("z", "y", "x")


def write_report_html(path: str | os.PathLike[str], content: ReportContent) -> None:
    """Write ``content`` as one self-contained HTML file, atomically.

    Raises
    ------
    OSError
        When the file cannot be written.
    """
    atomic_write_text(path, report_html(content))


def report_html(content: ReportContent) -> str:
    """``content`` as the text of an HTML page; its policy forbids every request to elsewhere."""
    style, script = _page_file("report.css"), "\n".join(map(_page_file, ("charts.js", "report.js")))
    figures = content.figures
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta http-equiv="Content-Security-Policy" '
        f"content=\"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'\">",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        f"<title>{escape(content.title)}</title><style>{style}</style></head><body><main>",
        f"<h1>{escape(content.title)}</h1>",
    ]
    if content.date:
        parts.append(f'<p class="date">{escape(content.date)}</p>')
    parts.append(_facts(overview(content)))
    if content.messages:
        parts.append(f'<ul class="messages">{"".join(f"<li>{escape(line)}</li>" for line in content.messages)}</ul>')
    parts.append(_explorer(content))
    if content.states:
        parts.append("<h2>States</h2>")
        parts.append(_cards(content))
        parts.append(_state_table(content))
    for table in content.tables:
        columns = set(range(1, len(table.head)))
        parts += [f"<h2>{escape(table.title)}</h2>", f"<p>{escape(table.caption)}</p>",
                  _table(table.head, table.rows, columns)]  # fmt: skip
    if content.truth:
        rows = [(name, f"{value:.3f}") for name, value in content.truth.items()]
        parts += ["<h2>Agreement with the known truth</h2>", _table(("Measure", "Value"), rows, {1})]
    fixed = [figure for figure in figures if not figure.is_live]
    if len(fixed) < len(figures):
        parts += ["<h2>Curves</h2>", '<div id="charts"></div>']
        # The maps of the states are in the page with or without scripts.
        fallback = [figure for figure in figures if figure.is_live and figure.section != "States"]
        parts.append(f"<noscript>{_gallery(fallback, DOTS_PER_INCH_OF_FALLBACK)}</noscript>")
    for section in dict.fromkeys(figure.section for figure in fixed):
        parts.append(f"<h2>{escape(section)}</h2>")
        parts.append(_gallery((figure for figure in fixed if figure.section == section), DOTS_PER_INCH))
    parts += ["<h2>How it was made</h2>", f"<pre>{escape(content.command)}</pre>", '<div class="columns">']
    if content.settings:
        rows = _items(content.settings)
        all_settings = _table(("Setting", "Value"), rows)
        parts.append(f"<details><summary>All {len(rows)} settings</summary>{all_settings}</details>")
    parts.append("<div>")
    if content.versions:
        parts.append(_table(("Software", "Version"), _items(content.versions)))
    if content.seconds:
        rows = [(name, duration(value)) for name, value in content.seconds.items()]
        parts.append(_table(("Part of the job", "Time"), rows, {1}))
    parts.append("</div></div>")
    if content.files:
        parts += ["<h2>Files</h2>", _table(("File", "Content"), _items(content.files))]
    parts.append(f'<script type="application/json" id="report-data">{page_data(content)}</script>')
    parts.append(f"<script>{script}</script>")
    parts.append("</main></body></html>")
    return "\n".join(parts)


def _page_file(name: str) -> str:
    return (resources.files("cryodrgn_ext.report") / "page_assets" / name).read_text("utf-8")


def _hash(text: str) -> str:
    """Source expression of a content security policy (W3C CSP level 2, section 4.2.5) that allows just this text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _items(mapping: Mapping[str, object]) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in mapping.items()]


def _facts(facts: Mapping[str, str]) -> str:
    tiles = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    return f'<dl class="facts">{tiles}</dl>' if tiles else ""


def _explorer(content: ReportContent) -> str:
    """Parts that only the script fills: the plot of the particles, and the maps of what is selected beside it."""
    if content.z is None and not content.states:
        return ""
    selected = '<div class="panel" id="selected"></div>'
    if content.z is None:
        return f'<div class="explore alone">{selected}</div>'
    return f"""<div class="explore"><div class="panel">
<div class="tools"><span id="presets"></span><label>x <select id="axis-x"></select></label>
<label>y <select id="axis-y"></select></label>
<label id="color-choice">coloured by <select id="color"></select></label>
<span><button type="button" id="mode-points">particles</button>
<button type="button" id="mode-density">density</button></span>
<span><button type="button" id="whole">whole range</button>
<button type="button" id="save">save picture</button></span></div>
<div class="plot"><canvas id="plot"></canvas><div id="tip" hidden></div></div><div id="legend"></div>
<p class="hint">{escape(_hint(content))}</p></div>
{selected}</div>"""


def _hint(content: ReportContent) -> str:
    return (
        f"Click a particle to see the maps of its {content.group_name}, with Shift to compare several. Drag to zoom, "
        "double-click for the whole range. Of large data sets a sample is drawn, and counts are estimated (≈)."
    )


def _cards(content: ReportContent) -> str:
    """One card for each state: all of its maps, of which the script shows the first until it is selected."""
    every = (content.whole, *content.states)
    shown = [state.slices for state in every if state is not None and state.slices is not None]
    grey = (0.0, 1.0)
    if shown:  # one grey scale for all
        grey = (
            float(min(np.percentile(planes, 1) for planes in shown)),
            float(max(np.percentile(planes, 99.8) for planes in shown)),
        )
    colors = group_colors(content)
    front = _telling_view(content.states)
    cards = [_card(state, k, colors[k], grey, front, content) for k, state in enumerate(content.states)]
    if content.whole is not None and (content.whole.views is not None or content.whole.slices is not None):
        cards.append(_card(content.whole, -1, CONSENSUS_COLOR, grey, front, content))
    return f'<div class="states">{"".join(cards)}</div>'


def _telling_view(states: Sequence[StateSummary]) -> int:
    """Which of the three sides the states differ most on: the one to show first."""
    views = [np.nan_to_num(state.views, nan=1.0) for state in states if state.views is not None]
    return int(np.argmax(np.var(views, axis=0).sum(axis=(1, 2)))) if len(views) > 1 else 0


def _card(
    state: StateSummary, number: int, color: str, grey: tuple[float, float], front: int, content: ReportContent
) -> str:
    n_particles = content.n_particles
    largest = LARGEST_SLICE if len(content.states) <= MANY_STATES else LARGEST_SLICE_OF_MANY
    swatch = (
        '<svg class="swatch" viewBox="0 0 12 12" aria-hidden="true">'
        f'<rect width="12" height="12" fill="{color}"/></svg>'
    )
    facts = [f"<b>{state.n:,}</b> particles"]
    if number >= 0 and n_particles:
        facts.append(share(state.n, n_particles))
    if state.resolution_A is not None:
        facts.append(f"{state.resolution_A:.2f} Å")
    parts = [f"<h3>{swatch}{escape(state.label)}</h3>", f'<p class="facts-line">{" · ".join(facts)}</p>']
    if state.views is not None:
        pictures = [shaded_png(view, to_rgb(color)) for view in state.views]
        parts.append(_views("surfaces", "along", pictures, f"isosurface of {state.label} along", front))
    if state.slices is not None:
        # Rows go up in maps and down in pictures.
        pictures = [grey_png(_small(plane, largest)[::-1], *grey) for plane in state.slices]
        parts.append(_views("slices", "normal to", pictures, f"central slice of {state.label} normal to", front))
    if state.verdict:
        parts.append(f'<p class="facts-line verdict">{escape(state.verdict)}</p>')
    return f'<article data-state="{number}">{"".join(parts)}</article>'


def _views(kind: str, word: str, pictures: Sequence[bytes], what: str, front: int) -> str:
    tiles = [
        f'<div{" class=front" if k == front else ""}><img alt="{escape(what)} {NORMALS[k]}" src="{data_url(picture)}">'
        f"<span>{word} {NORMALS[k]}</span></div>"
        for k, picture in enumerate(pictures)
    ]
    return f'<div class="views {kind}">{"".join(tiles)}</div>'


def _small(plane: np.ndarray, largest: int) -> np.ndarray:
    """A slice of at most ``largest`` pixels, by averaging blocks."""
    factor = -(-len(plane) // largest)
    n = len(plane) // factor
    averaged: np.ndarray = plane[: n * factor, : n * factor].reshape(n, factor, n, factor).mean(axis=(1, 3))
    return averaged


def _state_table(content: ReportContent) -> str:
    head = ("State", "Particles", "Share", "Resolution", "Evidence")
    return _table(head, state_rows(content), {1, 2, 3}, numbered="data-state")


def _table(
    head: tuple[str, ...], rows: Iterable[tuple[str, ...]], numbers: set[int] | None = None, numbered: str = ""
) -> str:
    """Table whose columns listed in ``numbers`` are set flush right; ``numbered`` names an attribute for the rows."""

    def line(cells: tuple[str, ...], tag: str, attribute: str = "") -> str:
        kinds = [' class="number"' if i in (numbers or ()) else "" for i in range(len(cells))]
        inside = "".join(f"<{tag}{k}>{escape(c)}</{tag}>" for k, c in zip(kinds, cells, strict=True))
        return f"<tr{attribute}>{inside}</tr>"

    body = "".join(line(row, "td", f' {numbered}="{k}"' if numbered else "") for k, row in enumerate(rows))
    return f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"


def _gallery(figures: Iterable[ReportFigure], dots_per_inch: int) -> str:
    return f'<div class="figures">{"".join(_tile(item, dots_per_inch) for item in figures)}</div>'


def _tile(item: ReportFigure, dots_per_inch: int) -> str:
    width = round(item.figure.get_figwidth() * CSS_PIXELS_PER_INCH)
    caption = escape(item.caption)
    image = f'<img alt="{caption}" width="{width}" src="{_picture(item.figure, dots_per_inch)}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _picture(figure: Figure, dots_per_inch: int) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dots_per_inch, metadata={"Software": None})
    return data_url(buffer.getvalue())

"""The report as one HTML file that opens anywhere, offline: pictures are inside, nothing is fetched."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Mapping
from html import escape

from matplotlib.figure import Figure

from cryodrgn_ext.analysis.report import ReportContent, ReportFigure, overview, report_figures, state_rows
from cryodrgn_ext.atomic import atomic_write_text

DOTS_PER_INCH = 160
CSS_PIXELS_PER_INCH = 96  # fixed by the CSS standard
CSS = """
:root { --ink: #1d2733; --soft: #5b6875; --line: #dde3ea; --accent: #1f4e79; --ground: #f6f8fa; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  "Liberation Sans", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 36px 0 12px; padding-bottom: 6px; border-bottom: 1px solid var(--line); }
pre { background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: 10px 14px; overflow-x: auto;
  font-size: 13px; white-space: pre-wrap; overflow-wrap: anywhere; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 20px 0;
  padding: 0; }
.facts div { background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: 10px 14px; }
.facts dt { color: var(--soft); font-size: 12px; }
.facts dd { margin: 0; font-size: 18px; font-weight: 600; color: var(--accent); }
.messages { background: #fff8e6; border: 1px solid #f0dca6; border-radius: 6px; padding: 10px 14px 10px 34px; }
table { border-collapse: collapse; background: #fff; width: 100%; border: 1px solid var(--line); }
th, td { text-align: left; padding: 6px 12px; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-size: 12px; color: var(--soft); font-weight: 600; }
td { overflow-wrap: anywhere; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th.number { text-align: right; }
.figures { display: flex; flex-wrap: wrap; gap: 14px; align-items: flex-start; margin-top: 14px; }
figure { margin: 0; background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: 10px;
  max-width: 100%; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: 13px; margin-top: 6px; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); gap: 18px; align-items: start; }
@media print { body { background: #fff; } figure, table { break-inside: avoid; } }
"""


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
    figures = report_figures(content)
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        f"<title>{escape(content.title)}</title><style>{CSS}</style></head><body><main>",
        f"<h1>{escape(content.title)}</h1>",
        _facts(overview(content)),
    ]
    if content.messages:
        parts.append(f'<ul class="messages">{"".join(f"<li>{escape(line)}</li>" for line in content.messages)}</ul>')
    if content.states:
        parts.append("<h2>States</h2>")
        parts.append(_table(("State", "Particles", "Share", "Resolution", "Evidence"), state_rows(content), {1, 2, 3}))
        parts.append(_gallery(figure for figure in figures if figure.section == "States"))
    if content.truth:
        rows = [(name, f"{value:.3f}") for name, value in content.truth.items()]
        parts += ["<h2>Agreement with the known truth</h2>", _table(("Measure", "Value"), rows, {1})]
    for section in dict.fromkeys(figure.section for figure in figures if figure.section != "States"):
        parts.append(f"<h2>{escape(section)}</h2>")
        parts.append(_gallery(figure for figure in figures if figure.section == section))
    parts += ["<h2>How it was made</h2>", f"<pre>{escape(content.command)}</pre>", '<div class="columns">']
    if content.settings:
        parts.append(_table(("Setting", "Value"), _items(content.settings)))
    if content.versions:
        parts.append(_table(("Software", "Version"), _items(content.versions)))
    parts.append("</div>")
    if content.files:
        parts += ["<h2>Files</h2>", _table(("File", "Content"), _items(content.files))]
    parts.append("</main></body></html>")
    return "\n".join(parts)


def _items(mapping: Mapping[str, object]) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in mapping.items()]


def _facts(facts: Mapping[str, str]) -> str:
    tiles = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    return f'<dl class="facts">{tiles}</dl>' if tiles else ""


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]], numbers: set[int] | None = None) -> str:
    """Table whose columns listed in ``numbers`` are set flush right."""

    def line(cells: tuple[str, ...], tag: str) -> str:
        kinds = [' class="number"' if i in (numbers or ()) else "" for i in range(len(cells))]
        return "<tr>" + "".join(f"<{tag}{k}>{escape(c)}</{tag}>" for k, c in zip(kinds, cells, strict=True)) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"


def _gallery(figures: Iterable[ReportFigure]) -> str:
    return f'<div class="figures">{"".join(_tile(item) for item in figures)}</div>'


def _tile(item: ReportFigure) -> str:
    width = round(item.figure.get_figwidth() * CSS_PIXELS_PER_INCH)
    caption = escape(item.caption)
    image = f'<img alt="{caption}" width="{width}" src="{_data_url(item.figure)}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _data_url(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")

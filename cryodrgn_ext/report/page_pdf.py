"""The report as a PDF of several pages, the form that RELION shows for a job (``logfile.pdf``)."""

from __future__ import annotations

import os
import textwrap

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cryodrgn_ext.durable_files import atomic_path
from cryodrgn_ext.report.page import ReportContent, duration, overview, state_rows

PAGE_IN = (8.27, 11.69)  # A4
LINES_PER_PAGE = 64
COLUMNS = 92
CAPTION_LETTERS_PER_INCH = 15


def write_logfile_pdf(path: str | os.PathLike[str], content: ReportContent) -> None:
    """Write ``content`` as a PDF: pages of text (facts, states, settings), then one figure per page, atomically.

    Raises
    ------
    OSError
        When the file cannot be written.
    """
    from matplotlib.backends.backend_pdf import PdfPages  # brings the subsetting of fonts

    # Without dates the same content gives the same bytes.
    metadata = {"Title": content.title, "CreationDate": None, "ModDate": None}
    with atomic_path(path) as temporary, PdfPages(temporary, metadata=metadata) as pdf:
        lines = _text_lines(content)
        for start in range(0, len(lines), LINES_PER_PAGE):
            pdf.savefig(_text_page(content.title, lines[start : start + LINES_PER_PAGE]))
        for item in content.figures:
            width = int(CAPTION_LETTERS_PER_INCH * item.figure.get_figwidth())
            words = textwrap.fill(f"{item.section}: {item.caption}", width)
            title = item.figure.suptitle(words, fontsize=8, parse_math=False)
            pdf.savefig(item.figure, dpi=150)
            title.set_text("")  # the page shows the same figure with a caption of its own


def _text_page(title: str, lines: list[str]) -> Figure:
    figure = Figure(figsize=PAGE_IN)
    FigureCanvasAgg(figure)
    # A user's text may contain $ signs: nothing is mathematics here.
    figure.text(0.07, 0.955, title, fontsize=14, weight="bold", va="top", parse_math=False)
    figure.text(0.07, 0.92, "\n".join(lines), fontsize=8, family="monospace", va="top", parse_math=False)
    return figure


def _text_lines(content: ReportContent) -> list[str]:
    lines = [f"{name:<22} {value}" for name, value in overview(content).items()]
    for message in content.messages:
        lines += ["", *textwrap.wrap(message, COLUMNS, subsequent_indent="    ")]
    if content.states:
        lines += ["", f"{'state':<14}{'particles':>10}{'share':>9}{'resolution':>12}  evidence"]
        for label, n, share, resolution, verdict in state_rows(content):
            first, *rest = textwrap.wrap(verdict, COLUMNS - 47) or [""]
            lines.append(f"{label:<14}{n:>10}{share:>9}{resolution:>12}  {first}")
            lines += [" " * 47 + line for line in rest]
    for one in content.tables:
        lines += ["", one.title, *textwrap.wrap(one.caption, COLUMNS)]
        lines += ["".join(f"{cell:<18}" for cell in row) for row in (one.head, *one.rows)]
    if content.truth:
        lines += ["", "Agreement with the known truth", *(f"{k:<44} {v:.3f}" for k, v in content.truth.items())]
    if content.seconds:
        lines += ["", "Time", *(f"{name:<28} {duration(value)}" for name, value in content.seconds.items())]
    if content.date:
        lines += ["", f"Made on {content.date}"]
    lines += ["", "Command", *textwrap.wrap(content.command, COLUMNS, subsequent_indent="    ")]
    for head, table in (("Settings", content.settings), ("Versions", content.versions), ("Files", content.files)):
        if table:
            lines += ["", head]
            for name, value in table.items():
                lines += textwrap.wrap(f"{name:<28} {value}", COLUMNS, subsequent_indent=" " * 29)
    return lines

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from cryodrgn_ext.analysis import plots
from cryodrgn_ext.analysis.latents import Embedding, cluster_latents
from cryodrgn_ext.analysis.report import ReportContent, StateSummary, report_figures
from cryodrgn_ext.analysis.report_html import report_html, write_report_html
from cryodrgn_ext.analysis.report_pdf import write_logfile_pdf

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "link", "img"}


def content(n_states: int = 3, q: int = 3) -> ReportContent:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(400, q))
    curve = 1 / (1 + np.exp((np.arange(17) - 10) / 1.5))
    slices = plots.central_slices(rng.normal(size=(32, 32, 32)))
    return ReportContent(
        title="Two domains & a <hinge>",
        command="cdx-relion-train --o External/job004/ --note '$x^2$ <b>bold</b>'",
        z=z,
        settings={"zdim": q, "mask": "a <mask>.mrc"},
        versions={"cryodrgn-ext": "0.0.0"},
        seed=7,
        n_particles=400,
        box_size=32,
        pixel_size_A=4.0,
        loss_history={"total": [3.0, 2.0, 1.5], "KL": []},
        clusters=cluster_latents(z, 4),
        embedding=Embedding(np.arange(0, 400, 2), rng.normal(size=(200, 2)).astype(np.float32)),
        colorings={"angle (deg)": rng.uniform(0, 60, 400)},
        states=[StateSummary(f"state {i}", 100, 9.5, curve, slices, "distinct") for i in range(n_states)],
        consensus_fsc=curve,
        consensus_resolution_A=8.7,
        truth={"Spearman": 0.97},
        messages=["The contrast was <inverted>."],
        files={"latents.npz": "latents"},
        elapsed_s=75.0,
    )


class Checker(HTMLParser):
    """Collects addresses, and checks that tags nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_whole_and_fetches_nothing() -> None:
    page = report_html(content())
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert len(checker.addresses) >= 8
    assert all(address.startswith("data:") for address in checker.addresses)
    assert not re.search(r"(?:https?:)?//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))
    text = "".join(checker.text)
    for said in ("'$x^2$ <b>bold</b>'", "a <mask>.mrc", "The contrast was <inverted>.", "8.70 Å", "0.970", "100"):
        assert said in text


def test_one_picture_for_each_thing_to_see() -> None:
    sections = [figure.section for figure in report_figures(content())]
    assert sections.count("States") == 1
    assert sections.count("Resolution") == 1
    assert sections.count("Training") == 1
    assert sections.count("Latent space") == 6
    assert sum(f.section == "States" for f in report_figures(content(n_states=20))) == 3


@pytest.mark.parametrize("q", [1, 2])
def test_small_latent_spaces(q: int) -> None:
    assert any(figure.section == "Latent space" for figure in report_figures(content(q=q)))


def test_a_homogeneous_report_needs_no_latents(tmp_path: Path) -> None:
    little = ReportContent("Homogeneous", "cryodrgn-ext train --zdim 0", loss_history={"total": [1.0]})
    assert "Homogeneous" in report_html(little)
    write_logfile_pdf(tmp_path / "log.pdf", little)
    assert (tmp_path / "log.pdf").read_bytes().startswith(b"%PDF")


def test_the_same_content_gives_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report_html(tmp_path / f"{name}.html", content())
        write_logfile_pdf(tmp_path / f"{name}.pdf", content())
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


def test_the_log_has_text_pages_and_a_page_for_each_figure(tmp_path: Path) -> None:
    write_logfile_pdf(tmp_path / "log.pdf", content())
    pages = len(re.findall(rb"/Type /Page\b", (tmp_path / "log.pdf").read_bytes()))
    assert pages == 1 + len(report_figures(content()))


def test_the_page_opens_in_a_browser_without_complaints(tmp_path: Path) -> None:
    assert BROWSER is not None, "install Chromium: python3.11 bootstrap.py test does"
    write_report_html(tmp_path / "report.html", content())
    run = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
            f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / "report.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "CONSOLE" not in run.stderr
    assert run.stdout.count("<figure>") == len(report_figures(content()))


def test_figures_are_drawn_from_extremes() -> None:
    drawn = [
        plots.group_sizes(np.arange(1, 40)),
        plots.fsc_curves({f"state {i}": np.linspace(1, 0, 33) for i in range(20)}, 1.5),
        plots.latent_by_label(np.zeros((5, 2)), np.arange(5), ("a", "b")),
        plots.map_slices({"flat": np.zeros((3, 8, 8))}),
    ]
    assert all(isinstance(figure, Figure) for figure in drawn)
    for figure in drawn:
        figure.canvas.draw()
        assert figure.axes


def test_central_slices_go_through_the_origin() -> None:
    volume = np.zeros((8, 8, 8))
    volume[4, 2, 6] = 1.0  # z, y, x
    z, y, x = plots.central_slices(volume)
    assert z[2, 6] == 1
    assert y.sum() == 0
    assert x.sum() == 0

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latents import Clustering, Embedding, cluster_latents
from cryodrgn_ext.analysis.shown_particles import ShownParticles, choose_shown
from cryodrgn_ext.report import charts, plots
from cryodrgn_ext.report.isosurface import surface_views
from cryodrgn_ext.report.page import ReportContent, ReportFigure, StateSummary, duration, report_figures, share
from cryodrgn_ext.report.page_html import report_html, write_report_html
from cryodrgn_ext.report.page_pdf import write_logfile_pdf

VOID = {"meta", "link", "img"}


def smooth_ball(box: int = 32) -> NDArray[np.float64]:
    """A ball of radius box / 4 in the centre, its edge at 0.5."""
    squares = ((np.indices((box, box, box)) - (box - 1) / 2) ** 2).sum(axis=0)
    return 1 / (1 + np.exp((np.sqrt(squares) - box / 4) / 0.5))


def content(n_states: int = 3, q: int = 3, views: bool = False) -> ReportContent:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(400, q))
    curve = 1 / (1 + np.exp((np.arange(17) - 10) / 1.5))
    slices = plots.central_slices(rng.normal(size=(32, 32, 32)))
    surfaces = surface_views(smooth_ball(), 0.5)
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
        states=[
            StateSummary(f"state {i}", 100, 9.5, curve, slices, "distinct", surfaces if views else None)
            for i in range(n_states)
        ],
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
    assert "http:" not in page
    assert "https:" not in page
    assert not re.search(r"//[a-z]", re.sub(r"[A-Za-z0-9+/=]{60,}", "", page))
    text = "".join(checker.text)
    for said in ("'$x^2$ <b>bold</b>'", "a <mask>.mrc", "The contrast was <inverted>.", "8.70 Å", "0.970", "100"):
        assert said in text


def test_one_picture_for_each_thing_to_see() -> None:
    sections = [figure.section for figure in report_figures(content())]
    assert sections.count("States") == 1
    assert sections.count("Resolution") == 1
    assert sections.count("Training") == 1
    assert sections.count("Latent space") == 4
    assert sections.count("Groups") == sections.count("Variance") == 1
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
        given = replace(content(n_states=1, views=True), embedding=None, colorings={})
        write_report_html(tmp_path / f"{name}.html", given)
        write_logfile_pdf(tmp_path / f"{name}.pdf", given)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


def test_the_log_has_text_pages_and_a_page_for_each_figure(tmp_path: Path) -> None:
    write_logfile_pdf(tmp_path / "log.pdf", content())
    pages = len(re.findall(rb"/Type /Page\b", (tmp_path / "log.pdf").read_bytes()))
    assert pages == 1 + len(report_figures(content()))


def test_figures_are_drawn_once_for_page_and_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[ReportContent] = []

    def draw(given: ReportContent) -> list[ReportFigure]:
        drawn.append(given)
        return report_figures(given)

    monkeypatch.setattr("cryodrgn_ext.report.page.report_figures", draw)
    given = replace(content(n_states=1), embedding=None, colorings={})
    report_html(given)
    write_logfile_pdf(tmp_path / "log.pdf", given)
    assert len(drawn) == 1


#: What is left of linear red, green and blue without one kind of cones (Machado, Oliveira and Fernandes 2009, table 1).
COLOR_VISION = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("vision", COLOR_VISION)
def test_the_colour_blind_can_tell_groups_apart(vision: str) -> None:
    rgb = np.array([to_rgb(color) for color in plots.DISTINCT])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ np.array(COLOR_VISION[vision]).T
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear.clip(0, 1) @ to_xyz.T / to_xyz.sum(axis=1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)  # CIE 1976
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=2)[np.triu_indices(len(lab), 1)]
    assert apart.min() > 15  # 2 is just noticeable side by side


def test_figures_are_drawn_from_extremes() -> None:
    drawn = [
        charts.draw([charts.size_chart(range(1, 40), "cluster", [""] * 39, ["red"] * 39)]),
        charts.fsc_curves({f"state {i}": np.linspace(1, 0, 33) for i in range(20)}, 1.5),
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


def test_names_with_mathematics_and_great_length_are_only_names(tmp_path: Path) -> None:
    name = "my $set_{a$ " + "very " * 40
    given = content(n_states=1, views=True)
    odd = replace(
        given, states=[replace(given.states[0], label=name)], colorings={name: np.arange(400.0)}, embedding=None
    )
    write_logfile_pdf(tmp_path / "log.pdf", odd)
    assert name in unescape(report_html(odd))


def test_scripts_and_styles_are_named_by_the_policy() -> None:
    page = report_html(content())
    for kind in ("script", "style"):
        (text,) = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        expected = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{expected}'" in page


def page_data_of(given: ReportContent) -> dict[str, Any]:
    (text,) = re.findall(r'id="report-data">(.*?)</script>', report_html(given), re.DOTALL)
    found: dict[str, Any] = json.loads(text)
    return found


def test_columns_come_back_within_the_step_of_16_bits() -> None:
    values = np.random.default_rng(1).normal(scale=1e4, size=400)
    values[7] = np.nan
    given = replace(content(), colorings={"defocus": values, "group": np.arange(400) % 3 + 4.0})
    columns = {column["name"]: column for column in page_data_of(given)["columns"]}
    codes = np.frombuffer(base64.b64decode(columns["defocus"]["data"]), "<u2")
    assert codes[7] == 65535
    low, high = columns["defocus"]["low"], columns["defocus"]["high"]
    step = (high - low) / 65534
    known = np.arange(400) != 7
    np.testing.assert_allclose((low + codes * step)[known], values[known], atol=0.51 * step)
    assert columns["group"]["levels"] == ["4", "5", "6"]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(columns["group"]["data"]), "<u2"), np.arange(400) % 3)


def test_the_page_of_many_particles_stays_small_and_shows_rare_states() -> None:
    n, q = 200_000, 10
    z = np.random.default_rng(2).normal(size=(n, q)).astype(np.float32)
    label = np.r_[np.zeros(n - 250, np.int32), np.ones(250, np.int32)]
    centers = np.array([17, n - 3])
    index = choose_shown(n, label, centers)
    columns = {f"column {k}": np.random.default_rng(k).normal(size=len(index)) for k in range(30)}
    shown = ShownParticles(index, index + 1, columns)
    given = replace(
        content(), z=z, n_particles=n, clusters=Clustering(label, centers, z[centers]), embedding=None, colorings={},
        shown=shown,
    )  # fmt: skip
    data = page_data_of(given)
    points = data["points"]
    group = np.frombuffer(base64.b64decode(points["group"]), "<u2")
    row = np.frombuffer(base64.b64decode(points["row"]), "<u4")
    assert np.count_nonzero(group == 1) == 250
    assert not points["exact"]
    assert row[points["centers"]].tolist() == [18, n - 2]
    # The weights count all particles.
    np.testing.assert_allclose(np.array(points["weights"])[group].sum(), n, rtol=1e-5)
    assert len(json.dumps(data)) < 6_000_000


def test_few_particles_are_all_shown() -> None:
    np.testing.assert_array_equal(choose_shown(5), np.arange(5))


def test_time_and_share_as_people_say_them() -> None:
    assert [duration(s) for s in (0.25, 42.0, 150.0, 9000.0)] == ["0.2 s", "42 s", "2.5 min", "2.5 h"]
    assert [share(n, 1_000_000) for n in (0, 310, 250_000)] == ["0.0 %", "0.031 %", "25.0 %"]

"""Reports of finished results, written again from what the directories hold."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from cryodrgn_ext.cli.main import main
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.registry import JOBS
from cryodrgn_ext.jobs.report import report
from cryodrgn_ext.options.report import ReportSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from tests.jobs.conftest import FinishedProject
from tests.jobs.fake_engine import FakeEngine

RUNS = {
    "validate": ("out", "--random_subsets", "12", "--device", "cpu"),
    "landscape": ("out", "--sketch", "20", "--clusters", "2", "--bootstrap", "2"),
    "trajectory": ("out", "--frames", "3"),
    "consensus": ("--in_parts", "particles.star", "--device", "cpu"),
    "compare": ("out", "out"),
}


def command(*words: str) -> None:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output


def contents(directory: Path) -> dict[str, bytes]:
    """All files but for the reports, the log and the lock."""
    left_out = {"report.html", "logfile.pdf", "run.log", ".lock"}
    return {str(path.relative_to(directory)): path.read_bytes()
            for path in directory.rglob("*") if path.is_file() and path.name not in left_out}  # fmt: skip


def without_time(page: str) -> str:
    """A report without when it was written and how long its pictures took, which its data repeat."""
    page = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}", "", page)
    return re.sub(r"\d+(\.\d+)? (s|min|h)\b|sha256-[A-Za-z0-9+/=]+", "", page)


def check(directory: Path) -> None:
    before, page = contents(directory), (directory / "report.html").read_text()
    for name in ("report.html", "logfile.pdf"):
        (directory / name).unlink()
    report(ReportSettings(in_result=directory), SilentMonitor())
    assert contents(directory) == before
    assert (directory / "logfile.pdf").stat().st_size > 1000
    again = (directory / "report.html").read_text()
    assert without_time(again) == without_time(page)


@pytest.mark.draws
def test_train(finished: FinishedProject, engine: FakeEngine) -> None:
    check(Path("out"))
    assert engine.calls == []


@pytest.mark.draws
@pytest.mark.parametrize("job", RUNS)
def test_other_jobs(job: str, finished: FinishedProject, engine: FakeEngine) -> None:
    command(job, *RUNS[job], "--o", "next")
    check(Path("next"))


def test_from_another_directory(
    finished: FinishedProject, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("rows.txt").write_text(" ".join(map(str, range(60))))
    command("trajectory", "out", "--frames", "3", "--indices", "rows.txt", "--o", "next")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    report(ReportSettings(in_result=finished.root / "next"), SilentMonitor())


def test_every_job_with_a_report_is_told_so() -> None:
    assert {name for name, job in JOBS.items() if job.report} >= {"train", "import", *RUNS}


def test_what_is_refused(finished: FinishedProject, engine: FakeEngine) -> None:
    said = io.StringIO()
    with pytest.raises(InputError, match="does not belong to a result directory"):
        report(ReportSettings(in_result=Path("particles.star")), Monitor(said))
    Path("z.txt").write_text("0 0\n")
    command("volumes", "out", "--z", "z.txt", "--o", "vols")
    with pytest.raises(InputError, match=r"holds the results of a volumes job; train, .* jobs have reports"):
        report(ReportSettings(in_result=Path("vols")), Monitor(said))
    command("landscape", *RUNS["landscape"], "--o", "land")
    shutil.rmtree("land/checkpoint")
    with pytest.raises(InputError, match="checkpoint is gone"):
        report(ReportSettings(in_result=Path("land")), Monitor(said))
    record = yaml.safe_load(Path("out/job.yaml").read_text()) | {"status": "running"}
    Path("out/job.yaml").write_text(yaml.safe_dump(record))
    with pytest.raises(InputError, match="is not finished"):
        report(ReportSettings(in_result=Path("out")), Monitor(said))

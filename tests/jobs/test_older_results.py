"""Results of an earlier version: every job works on them, a Continue does nothing anew, and all names are as they were.

``older_results/make.sh`` says how they were made.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from cryodrgn_ext.cli import main
from cryodrgn_ext.jobs.registry import JOBS
from cryodrgn_ext.jobs.report import report
from cryodrgn_ext.options.report import ReportSettings
from cryodrgn_ext.pose import random_initialisations, refinement
from cryodrgn_ext.pose.initial import Schedule
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.settings import describe, from_mapping, from_plain, in_words
from cryodrgn_ext.workflow.job_result import JobResult
from tests.jobs.older_results.list_names import names_of

OLDER = Path(__file__).parent / "older_results"
MADE_IN = "/tmp/older/project"  # what the records say
NAMES: dict[str, dict[str, list[str]]] = json.loads((OLDER / "names.json").read_text())
#: The options with which ``make.sh`` ran each job.
OPTIONS: dict[str, dict[str, str]] = {
    "train": {"in_parts": "particles.star", "engine": "subspace", "zdim": "2", "states": "2", "volumes": "2",
              "device": "cpu", "seed": "1"},
    "abinit": {"in_parts": "particles.star", "starts": "2", "zdim": "1", "volumes": "1", "device": "cpu", "seed": "1"},
    "validate": {"in_parts": "External/train", "state": "0", "random_subsets": "12", "device": "cpu"},
    "landscape": {"in_parts": "External/train", "sketch": "20", "clusters": "2", "components": "2", "traversals": "0",
                  "bootstrap": "2"},
    "trajectory": {"in_parts": "External/train", "frames": "2"},
}  # fmt: skip


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The older project, which is the working directory."""
    with tarfile.open(OLDER / "results.tar.xz") as archive:
        if hasattr(tarfile, "data_filter"):  # not in Python 3.11.0 to 3.11.3, which Debian has
            archive.extractall(tmp_path, filter="data")
        else:
            archive.extractall(tmp_path)  # our own archive
    project = tmp_path / "project"
    for record in project.glob("External/*/job.yaml"):
        record.write_text(record.read_text().replace(MADE_IN, str(project)))
    monkeypatch.chdir(project)
    return project


def run(job: str, output: str, **options: str) -> JobResult:
    cls = JOBS[job].settings_class
    return JOBS[job].load()(from_mapping(cls, {"o": output, **options}), SilentMonitor())


def record_of(directory: str) -> dict[str, Any]:
    record: dict[str, Any] = yaml.safe_load((Path(directory) / "job.yaml").read_text())
    return record


def kept_of(now: Any, before: Any) -> Any:
    """Return what is there now of what was there before: results may gain keys, also those of each state."""
    if isinstance(before, dict):
        return {name: kept_of(now[name], value) for name, value in before.items()}
    if isinstance(before, list) and len(now) == len(before):
        return [kept_of(one, other) for one, other in zip(now, before, strict=True)]
    return now


@pytest.mark.parametrize("job", ["train", "abinit"])
def test_continue_finds_every_stage_done(older: Path, job: str) -> None:
    directory = f"External/{job}"
    before, journal = record_of(directory), Path(directory, "checkpoint/stages.json").read_bytes()
    kept = {path: path.read_bytes() for path in Path(directory).rglob("*.npz")}
    said = io.StringIO()
    result = JOBS[job].load()(from_plain(JOBS[job].settings_class, before["settings"]), Monitor(said))
    assert Path(directory, "checkpoint/stages.json").read_bytes() == journal
    assert {path: path.read_bytes() for path in kept} == kept
    assert said.getvalue().count("done before.") == len(json.loads(journal)) - 1  # images are made again
    after = record_of(directory)
    assert after["status"] == "finished"
    notes = [record["results"].pop("notes") for record in (before, after)]
    assert kept_of(after["results"], before["results"]) == before["results"]
    assert notes[1].pop(0) == after["results"]["found"]  # one sentence on all that was found comes first
    if before["results"].get("states"):
        assert notes[0].pop().startswith("No state differs")  # the only one of its kind that there was before
    notes[1] = [note for note in notes[1] if not note.startswith("Contrast: the map that was found")]  # said since then
    assert len(notes[0]) == len(notes[1])  # sentences may be worded anew, numbers and names may not
    assert [re.findall(r"\d[\d.]*", note) for note in notes[0]] == [re.findall(r"\d[\d.]*", note) for note in notes[1]]
    assert all(output.path is not None and output.path.exists() for output in result.outputs)
    assert (older / directory / "report.html").exists()


@pytest.mark.parametrize("job", ["train", "abinit"])
def test_continue_keeps_what_was_chosen_then(older: Path, job: str) -> None:
    directory = f"External/{job}"
    then, journal = record_of(directory)["settings"], Path(directory, "checkpoint/stages.json").read_bytes()
    shown = CliRunner().invoke(main, [job, "--o", directory])
    assert shown.exit_code == 0, shown.output
    assert Path(directory, "checkpoint/stages.json").read_bytes() == journal  # no stage was done again
    now = record_of(directory)["settings"]
    fields = {field.name: field for field in describe(JOBS[job].settings_class)}
    then = {name: in_words(fields[name], value) for name, value in then.items()}
    assert {name: now[name] for name in then} == then
    assert then["memory_GB"] != fields["memory_GB"].default  # which is another now
    assert then["fit_contrast"] != fields["fit_contrast"].default


def test_select_returns_the_particles_of_a_state(older: Path) -> None:
    run("select", "chosen.star", in_parts="External/train", state="1")
    with np.load("External/train/states.npz") as table:
        rows = np.flatnonzero(table["label"] == 1)
    images = [line for line in Path("particles.star").read_text().splitlines() if "@" in line]
    chosen = [line for line in Path("chosen.star").read_text().splitlines() if "@" in line]
    assert [line.split("@")[0].split()[-1] for line in chosen] == [
        images[row].split("@")[0].split()[-1] for row in rows
    ]


@pytest.mark.parametrize("learned", ["train", "abinit"])
def test_volumes_at_latents_of_an_older_model(older: Path, learned: str) -> None:
    where = Path("External", learned)
    run("volumes", "decoded", in_result=str(where), z=str(where / "volumes/z_values.txt"))
    before, after = (
        np.frombuffer((folder / "vol_000.mrc").read_bytes()[1024:], "<f4")
        for folder in (where / "volumes", Path("decoded"))
    )
    assert np.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize("job", ["train", "validate", "landscape", "trajectory"])
def test_names_are_as_they_were(older: Path, job: str) -> None:
    run(job, f"again/{job}", **OPTIONS[job])
    assert_named_as_before(job)


@pytest.mark.slow
def test_names_of_abinit_are_as_they_were(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whether poses are right is not asked here.
    monkeypatch.setattr(random_initialisations, "Schedule", lambda: Schedule(most_steps=3))
    monkeypatch.setattr(refinement, "MOST_LOCAL_ROUNDS", 1)
    monkeypatch.setattr("cryodrgn_ext.pose.abinit._refined_again", lambda *_: None)
    run("abinit", "again/abinit", **OPTIONS["abinit"])
    assert_named_as_before("abinit")


def assert_named_as_before(job: str) -> None:
    """Assert that nothing is missing; more may be there."""
    found = names_of(Path("again", job))
    missing = {f"{what}: {name}" for what, names in NAMES[job].items() for name in set(names) - set(found[what])}
    # Whether so small a set has a maximum of the density that lasts is decided by last bits; an empty list is named.
    nothing_in = [
        f"keys: results.{name}." for name, value in record_of(f"again/{job}")["results"].items() if value == []
    ]
    missing = {name for name in missing if not name.startswith(tuple(nothing_in))}
    assert missing <= {"files: run.log"}  # that is for entry points to write
    assert [name for name in found["stages"] if name in NAMES[job]["stages"]] == NAMES[job]["stages"]


@pytest.mark.parametrize("job", ["train", "abinit"])
def test_reports_are_written_again(job: str, older: Path) -> None:
    directory = Path(f"External/{job}")
    for name in ("report.html", "logfile.pdf"):
        (directory / name).unlink(missing_ok=True)
    report(ReportSettings(in_result=directory), SilentMonitor())
    assert "cryodrgn-ext" in (directory / "report.html").read_text()
    assert (directory / "logfile.pdf").stat().st_size > 1000

"""A job that goes on in its directory keeps what it was begun with, through every entry point."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import cryosparc_jobs
from cryodrgn_ext.cli import main
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.registry import JOBS, Job
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.options.validate import ValidateSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.record import write_record
from cryodrgn_ext.setting_field import SettingField
from cryodrgn_ext.settings import Settings, describe, from_values
from cryodrgn_ext.workflow.job_result import JobResult
from cryodrgn_ext.workflow.recorded_settings import completed_settings, settings_from_words
from cryosparc_jobs import lifecycle, running
from cryosparc_jobs.job_kinds import job_kinds
from relion_wrappers.entry_point import run_program
from tests.cryosparc_jobs import conftest
from tests.cryosparc_jobs.imitated_project import Lab

LONG_JOBS = ("train", "abinit", "landscape", "validate", "atomic")
TOLD = "settings_of_the_run.json"
lab = conftest.lab


def write_down(settings: Settings, monitor: Monitor) -> JobResult:
    """Stand for every job: leave the settings that it was given, also from a process of its own."""
    directory = Path(settings.to_mapping()["o"])
    (directory / TOLD).write_text(json.dumps(settings.to_mapping()))
    return JobResult(directory, ())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, where jobs only write down what they are given."""
    monkeypatch.setattr(Job, "load", lambda _: write_down)
    monkeypatch.setattr(Job, "load_check", lambda _: None)
    monkeypatch.setattr(lifecycle, "END_PAUSE_S", 0.01)
    monkeypatch.setattr(running, "POLL_S", 0.1)
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def another(field: SettingField) -> Any:
    """Return a value that is allowed and not the default."""
    if field.kind == "bool":
        return not field.default
    if field.choices:
        return next(word for word in reversed(field.choices) if word != field.default)
    if field.kind in ("str", "path"):
        one: Any = "C2" if field.kind == "str" else Path("elsewhere.mrc")
    else:
        ends = [end for end in (field.low, field.high) if end is not None and end != field.default]
        one = (int if field.kind == "int" else float)(ends[0])
    return (one,) * (field.count or 1) if field.many else one


def begin(job: str, directory: Path) -> Settings:
    """Leave the record of a job that was begun with other settings than the defaults."""
    settings = from_values(
        JOBS[job].settings_class,
        {
            field.name: directory if field.name == "o" else another(field)
            for field in describe(JOBS[job].settings_class)
        },
    )
    directory.mkdir(parents=True)
    write_record(directory, job, "running", settings, {}, {})
    return settings


def on_the_command_line(job: str, words: list[str], _lab: Lab) -> str:
    shown = CliRunner().invoke(main, [job, "--o", "External/job001", *words])
    assert shown.exit_code == 0, shown.output
    return shown.output


def in_relion(job: str, words: list[str], _lab: Lab) -> str:
    fields = describe(JOBS[job].settings_class)
    named = {"--o", *words}
    open_fields = [field for field in fields if field.kind != "bool" and not field.required]
    empty = [field.option for field in open_fields if field.option not in named]  # as RELION passes empty fields
    assert run_program(job, ["--o", "External/job001/", *words, *empty]) == 0
    return Path("External/job001/run.log").read_text()


def in_cryosparc(job: str, words: list[str], lab: Lab) -> str:
    given = dict(zip((word.removeprefix("--") for word in words[::2]), map(int, words[1::2]), strict=True))
    for name in lab.particles["blob/path"]:
        stack = lab.directory / name.removeprefix(">")
        stack.parent.mkdir(exist_ok=True)
        stack.touch()
    connected: dict[str, Any] = {"particles": (lab.parent, "particles")}
    if job_kinds()[job].takes_result:
        Path("learned").mkdir()
        Path("learned/job.yaml").touch()
        connected["result"] = Path("learned")
    getattr(cryosparc_jobs, job)(
        lab.cs, project=lab.project, workspace="W1", directory=Path("External/job001").absolute(), **connected, **given
    )
    return Path("External/job001/run.log").read_text()


DOORS: list[Callable[[str, list[str], Lab], str]] = [on_the_command_line, in_relion, in_cryosparc]


@pytest.mark.filterwarnings("ignore:.*API client:UserWarning")
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("job", LONG_JOBS)
def test_what_is_not_given_is_as_recorded(
    job: str, door: Callable[[str, list[str], Lab], str], project: Path, lab: Lab
) -> None:  # fmt: skip
    directory = Path("External/job001")
    begun = begin(job, directory).to_mapping()
    decided = {"o", *(job_kinds()[job].decided() if door is in_cryosparc else ("particles_format",))}
    said = door(job, ["--seed", "7"], lab)
    now = json.loads((directory / TOLD).read_text())
    assert now["seed"] == 7 != begun["seed"]
    assert {name: now[name] for name in now.keys() - decided - {"seed"}} == {
        name: begun[name] for name in begun.keys() - decided - {"seed"}
    }
    assert "Not given, and as when" in said


def test_a_new_directory_begins_with_the_defaults(project: Path) -> None:
    given = {"in_parts": "p.star", "o": "new"}
    completed = settings_from_words(TrainSettings, "train", given)
    assert completed.settings == TrainSettings(in_parts=Path("p.star"), o=Path("new"))
    assert completed.sentences == ()


def test_an_option_that_there_was_not_gets_its_default_and_is_named(project: Path) -> None:
    begun = begin("train", Path("old"))
    record = Path("old/job.yaml")
    lines = [line for line in record.read_text().splitlines() if not line.startswith(("  check_weak:", "  symmetry:"))]
    record.write_text("\n".join(lines))
    completed = settings_from_words(TrainSettings, "train", {"o": "old"})
    default = {field.name: field.default for field in describe(TrainSettings)}
    new = {name: default[name] for name in ("check_weak", "symmetry")}
    assert completed.settings.to_mapping() == begun.to_mapping() | new
    named = [sentence for sentence in completed.sentences if sentence.startswith("There was no such option")]
    assert len(named) == 1
    assert named[0].endswith(": --symmetry C1, --check_weak yes")
    given = settings_from_words(TrainSettings, "train", {"o": "old", "symmetry": "C3", "check_weak": "no"})
    assert not any(sentence.startswith("There was no such option") for sentence in given.sentences)


def test_what_is_given_takes_the_place_of_its_alternative(project: Path) -> None:
    validated = ValidateSettings(in_parts=Path("learned"), o=Path("old"), state=(1, 2), random_subsets=99)
    validated.o.mkdir()
    write_record(validated.o, "validate", "finished", validated, {}, {})
    now = settings_from_words(ValidateSettings, "validate", {"o": "old", "indices": "mine.txt"}).settings
    assert now == dataclasses.replace(validated, state=(), indices=("mine.txt",))
    # An empty field of the alternative, or its default, decides nothing.
    assert settings_from_words(ValidateSettings, "validate", {"o": "old", "indices": ""}).settings == validated


def test_files_are_found_from_another_working_directory(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "particles.star").touch()
    begun = TrainSettings(in_parts=Path("particles.star"), o=Path("result"), in_mask=Path("gone.mrc"))
    begun.o.mkdir()
    write_record(begun.o, "train", "running", begun, {}, {})
    assert completed_settings(TrainSettings, "train", {"o": begun.o}).settings == begun
    monkeypatch.chdir(project.parent)
    moved = completed_settings(TrainSettings, "train", {"o": Path("project/result")}).settings.to_mapping()
    assert moved["in_parts"] == str(project / "particles.star")
    assert moved["in_mask"] == "gone.mrc"


def test_results_of_another_job_say_nothing(project: Path) -> None:
    begin("landscape", Path("other"))
    given = {"in_parts": Path("p.star"), "o": Path("other")}
    assert completed_settings(TrainSettings, "train", given).settings == from_values(TrainSettings, given)


def test_a_record_without_settings_is_refused_in_a_sentence(project: Path) -> None:
    begin("train", Path("old"))
    Path("old/job.yaml").write_text("job: train\nsettings:\ninputs: {}\nresults: {}\n")
    with pytest.raises(InputError, match="is not a job record"):
        settings_from_words(TrainSettings, "train", {"o": "old"})

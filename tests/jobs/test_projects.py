"""Whose images a job reads: of two projects with the same names, after a move, and from anywhere."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import yaml

from cryodrgn_ext.errors import InputError, ResumeError
from cryodrgn_ext.jobs.registry import JOBS
from cryodrgn_ext.jobs.select import select
from cryodrgn_ext.jobs.train import train
from cryodrgn_ext.jobs.validate import validate
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.options.select import SelectSettings
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.options.validate import ValidateSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.settings import describe
from tests.jobs.conftest import SETTINGS, FinishedProject
from tests.jobs.fake_engine import FakeEngine

VALIDATE = ValidateSettings(in_parts=Path("out"), o=Path("checked"), device="cpu", random_subsets=12, state=(0,))


def said_by(job: object, settings: object) -> str:
    stream = io.StringIO()
    job(settings, Monitor(stream))  # type: ignore[operator]
    return stream.getvalue()


def stack_of(project: Path) -> Path:
    return project / read_particles(project / "particles.star", project).stack_names[0]


def spoil(project: Path) -> None:
    """Other images under the same names."""
    with mrcfile.open(stack_of(project), "r+") as file:
        file.set_data(np.random.default_rng(5).normal(size=file.data.shape).astype(np.float32))


@pytest.fixture
def other(finished: FinishedProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A second project with other images under the same names, which is the working directory."""
    folder = tmp_path / "other"
    folder.mkdir()
    for name in ("particles.star",):
        shutil.copy(finished.root / name, folder / name)
    target = folder / stack_of(finished.root).relative_to(finished.root)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(stack_of(finished.root), target)
    spoil(folder)
    monkeypatch.chdir(folder)
    return folder


def test_every_job_that_reads_particles_takes_a_project() -> None:
    without = [
        name for name, job in JOBS.items()
        if "in_parts" in (fields := {field.name for field in describe(job.settings_class)}) and "project" not in fields
    ]  # fmt: skip
    assert without == []


def test_the_record_says_where_images_were(finished: FinishedProject) -> None:
    images = yaml.safe_load(Path("out/job.yaml").read_text())["inputs"]["images"]
    assert images["directory"] == str(finished.root)
    assert images["stacks"] >= 1
    assert len(images["sha256"]) == 64


def test_a_result_is_validated_on_the_images_of_its_own_project(finished: FinishedProject, other: Path) -> None:
    here = said_by(validate, replace(VALIDATE, in_parts=finished.root / "out", o=Path("there")))
    assert f"Images are read from {finished.root}" in here
    record = yaml.safe_load(Path("there/job.yaml").read_text())
    assert record["inputs"]["images"]["directory"] == str(finished.root)


def test_other_images_are_refused_and_with_a_word_of_the_user_warned_about(
    finished: FinishedProject, other: Path
) -> None:
    settings = replace(VALIDATE, in_parts=finished.root / "out", o=Path("there"))
    text = said_by(validate, replace(settings, project=other))
    assert "they are used, as --project says so" in text
    spoil(finished.root)
    with pytest.raises(InputError, match=r"are not those that .* was made of.*--project, or train anew"):
        validate(replace(settings, o=Path("again")), Monitor(io.StringIO()))
    assert not Path("again").exists()


def test_particles_returned_far_from_their_project_keep_it(
    project: Path, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    train(replace(SETTINGS, o=scratch / "out"), Monitor(io.StringIO()))
    wrong = tmp_path / "wrong"
    target = wrong / stack_of(project).relative_to(project)
    target.parent.mkdir(parents=True)
    shutil.copy(stack_of(project), target)
    monkeypatch.chdir(wrong)
    settings = replace(SETTINGS, in_parts=scratch / "out" / "particles.star", o=tmp_path / "second")
    train(settings, Monitor(io.StringIO()))
    record = yaml.safe_load((tmp_path / "second/job.yaml").read_text())
    assert record["inputs"]["images"]["directory"] == str(project)


def test_a_project_that_moved_is_given_by_name(
    finished: FinishedProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tmp_path / "result"
    shutil.copytree("out", result)
    moved = tmp_path / "moved"
    finished.root.rename(moved)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="give the right one with --project"):
        validate(replace(VALIDATE, in_parts=result, o=Path("v")), Monitor(io.StringIO()))
    text = said_by(validate, replace(VALIDATE, in_parts=result, o=Path("v"), project=moved))
    assert "are not those" not in text  # the same pixels


def test_a_continued_job_refuses_other_images(finished: FinishedProject, engine: FakeEngine) -> None:
    spoil(finished.root)
    with pytest.raises(ResumeError, match="was begun with other images"):
        train(SETTINGS, Monitor(io.StringIO()))


def test_results_of_earlier_versions_know_their_working_directory(finished: FinishedProject, other: Path) -> None:
    path = finished.root / "out/job.yaml"
    record = yaml.safe_load(path.read_text())
    del record["inputs"]["images"]
    path.write_text(yaml.safe_dump(record))
    validate(replace(VALIDATE, in_parts=finished.root / "out", o=Path("there")), Monitor(io.StringIO()))
    found = yaml.safe_load(Path("there/job.yaml").read_text())["inputs"]["images"]
    assert found["directory"] == str(finished.root)


def test_select_from_elsewhere_returns_rows_as_they_are(finished: FinishedProject, other: Path) -> None:
    select(SelectSettings(in_parts=finished.root / "out", o=Path("chosen.star"), state=(0,)), Monitor(io.StringIO()))
    chosen = read_particles("chosen.star", finished.root)
    original = read_particles(finished.root / "particles.star")
    assert set(chosen.image_name.tolist()) < set(original.image_name.tolist())


def test_a_file_without_its_project_is_trained_with_the_project_given(
    project: Path, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laptop = tmp_path / "laptop"
    laptop.mkdir()
    shutil.move(project / "particles.star", laptop / "particles.star")
    monkeypatch.chdir(laptop)
    with pytest.raises(InputError, match="give the right one with --project"):
        train(SETTINGS, Monitor(io.StringIO()))
    train(replace(SETTINGS, project=project), Monitor(io.StringIO()))
    settings = yaml.safe_load(Path("out/job.yaml").read_text())["settings"]
    assert isinstance(TrainSettings.__dataclass_fields__["project"].default, type(None))
    assert settings["project"] == str(project)

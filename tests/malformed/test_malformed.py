"""Malformed input ends in one clear sentence, a non-zero exit, one failure marker and no partial output."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.malformed.argument_cases import ARGUMENTS
from tests.malformed.cs_cases import CS
from tests.malformed.entry_points import MARKERS, Outcome, knock, leftovers
from tests.malformed.result_cases import RESULTS, TRACE
from tests.malformed.stack_cases import STACKS
from tests.malformed.star_cases import STAR
from tests.malformed.tiny_project import Case, TinyProject

FILES = [*STAR.cases, *CS.cases, *STACKS.cases]
TRAIN_FILES = [case for case in FILES if case.entry_point == "train"]
LONGEST_SENTENCE = 500  # two long paths and the words around them
ORDINARY = ("--in_parts", "particles.star")
# Should a spoiled input be accepted after all, the run that follows must be short.
SMALL_RUN = ("--architecture", "separable", "--epochs", "1", "--zdim", "1", "--states", "2", "--volumes", "0")


def check_sentence(outcome: Outcome, says: tuple[str, ...]) -> None:
    """One line on stderr that names everything in ``says``; the exit status tells of the failure."""
    assert outcome.status not in (0, None), f"it was accepted, or hung: {outcome}"
    assert "Traceback" not in outcome.out + outcome.err
    lines = [line for line in outcome.err.splitlines() if line.strip()]
    assert len(lines) == 1, f"not one sentence but {len(lines)} lines: {outcome.err}"
    sentence = lines[0]
    assert sentence.lower().startswith("error: ")
    assert len(sentence) < LONGEST_SENTENCE
    assert "unexpected" not in sentence, f"nobody foresaw this: {sentence}"
    for pattern in says:
        assert re.search(pattern, sentence, re.IGNORECASE), f"/{pattern}/ is not in: {sentence}"


def prepare(case: Case, folder: Path) -> list[str]:
    """Spoil a project in ``folder`` and return the arguments without the output folder."""
    project = TinyProject(folder)
    arguments = case.spoil(project)
    if not project.written and case.entry_point == "train":
        project.write()
    return list(ORDINARY if arguments is None else arguments)


def with_small_run(arguments: list[str]) -> list[str]:
    """Append the options of a short run that the case does not give itself."""
    pairs = zip(SMALL_RUN[::2], SMALL_RUN[1::2], strict=True)
    return [*arguments, *(word for pair in pairs if pair[0] not in arguments for word in pair)]


def test_tiny_project_itself_is_accepted(tmp_path: Path) -> None:
    TinyProject(tmp_path).write()
    (tmp_path / "External/job001").mkdir(parents=True)
    arguments = with_small_run(["--o", "External/job001/", *ORDINARY])
    outcome = knock("cdx-relion-train", arguments, tmp_path)
    assert outcome.status == 0, outcome
    assert [(tmp_path / "External/job001" / marker).exists() for marker in MARKERS] == [True, False, False]


@pytest.mark.parametrize("case", [*TRAIN_FILES, *ARGUMENTS.cases], ids=lambda case: case.name)
def test_relion_wrapper_refuses(case: Case, tmp_path: Path) -> None:
    arguments = prepare(case, tmp_path)
    job = tmp_path / "External/job001"
    job.mkdir(parents=True)
    outcome = knock("cdx-relion-train", with_small_run(["--o", "External/job001/", *arguments]), tmp_path)
    check_sentence(outcome, case.says)
    assert [(job / marker).exists() for marker in MARKERS] == [False, True, False]
    assert leftovers(job) == []


@pytest.mark.parametrize("case", TRAIN_FILES, ids=lambda case: case.name)
def test_command_line_refuses(case: Case, tmp_path: Path) -> None:
    arguments = prepare(case, tmp_path)
    outcome = knock("cryodrgn-ext", ["train", *with_small_run([*arguments, "--o", "result"])], tmp_path)
    check_sentence(outcome, case.says)
    assert leftovers(tmp_path / "result") == []


@pytest.mark.parametrize("case", [case for case in FILES if case.entry_point == "fsc"], ids=lambda case: case.name)
def test_fsc_refuses(case: Case, tmp_path: Path) -> None:
    outcome = knock("cryodrgn-ext", ["fsc", *prepare(case, tmp_path), "--o", "curve.star"], tmp_path)
    check_sentence(outcome, case.says)
    assert not (tmp_path / "curve.star").exists()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny project and the result of training on it."""
    folder = tmp_path_factory.mktemp("trained")
    TinyProject(folder).write()
    outcome = knock("cryodrgn-ext", with_small_run(["train", *ORDINARY, "--o", "result"]), folder)
    assert outcome.status == 0, outcome
    return folder


def prepare_result(case: Case, trained: Path, folder: Path) -> list[str]:
    """Copy the trained project and spoil it."""
    shutil.copytree(trained, folder, dirs_exist_ok=True, symlinks=True)
    return case.spoil(TinyProject(folder)) or []


def of_entry_point(entry_point: str) -> list[Case]:
    return [case for case in RESULTS.cases if case.entry_point == entry_point]


@pytest.mark.parametrize("case", of_entry_point("select"), ids=lambda case: case.name)
def test_select_wrapper_refuses(case: Case, trained: Path, tmp_path: Path) -> None:
    arguments = prepare_result(case, trained, tmp_path)
    job = tmp_path / "External/job002"
    job.mkdir(parents=True)
    outcome = knock("cdx-relion-select", ["--o", "External/job002/", *arguments], tmp_path)
    check_sentence(outcome, case.says)
    assert [(job / marker).exists() for marker in MARKERS] == [False, True, False]
    assert leftovers(job) == []
    assert not (tmp_path / TRACE).exists(), "code from the input was run"


@pytest.mark.parametrize("case", of_entry_point("select"), ids=lambda case: case.name)
def test_select_refuses(case: Case, trained: Path, tmp_path: Path) -> None:
    arguments = prepare_result(case, trained, tmp_path)
    outcome = knock("cryodrgn-ext", ["select", *arguments, "--o", "subset.star"], tmp_path)
    check_sentence(outcome, case.says)
    assert not (tmp_path / "subset.star").exists()
    assert not (tmp_path / TRACE).exists(), "code from the input was run"


@pytest.mark.parametrize("case", of_entry_point("volumes"), ids=lambda case: case.name)
def test_volumes_refuses(case: Case, trained: Path, tmp_path: Path) -> None:
    arguments = prepare_result(case, trained, tmp_path)
    outcome = knock("cryodrgn-ext", ["volumes", *arguments, "--o", "decoded"], tmp_path)
    check_sentence(outcome, case.says)
    assert leftovers(tmp_path / "decoded") == []
    assert not (tmp_path / TRACE).exists(), "code from the input was run"

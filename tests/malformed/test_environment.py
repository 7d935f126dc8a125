"""A machine that says no: full disks, file size limits, unreadable inputs, unwritable outputs."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.workflow.compiler_cache import have_compiler_cache
from cryodrgn_ext.workflow.launcher import ProcessGroup
from tests.malformed.entry_points import MARKERS, Outcome, knock, leftovers, obey_permissions
from tests.malformed.test_malformed import ORDINARY, SMALL_RUN, check_sentence
from tests.malformed.tiny_project import TinyProject
from tests.patience import HANGS_S

ROOT = Path(__file__).resolve().parents[2]
JOB = "External/job001"


def train(project: TinyProject, *arguments: str, prepare: Callable[[], object] | None = None) -> Outcome:
    """Run the train wrapper in the project."""
    words = [*(arguments or ("--o", f"{JOB}/")), *ORDINARY, *SMALL_RUN]
    return knock("cdx-relion-train", words, project.root, *([prepare] if prepare else []))


def only_failure_marker(job: Path) -> bool:
    return [(job / marker).exists() for marker in MARKERS] == [False, True, False]


@pytest.fixture
def project(tmp_path: Path) -> TinyProject:
    tiny = TinyProject(tmp_path)
    tiny.write()
    (tmp_path / JOB).mkdir(parents=True)
    return tiny


@pytest.fixture(params=["64k", "400k"])
def full_disk(project: TinyProject, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The job's folder on a disk of a few hundred kB, which fills up at different stages of the job."""
    job = project.root / JOB
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", job], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk needs root; the file size limit below tests the same handling")
    yield job
    subprocess.run(["umount", job], check=True)


def results(job: Path) -> list[str]:
    """Files that a user may take for results: everything but the record and the finished stages that Continue uses."""
    return [name for name in leftovers(job) if name != "job.yaml" and not name.startswith("checkpoint/")]


@pytest.mark.slow
def test_full_disk_and_continue_with_more_room(full_disk: Path, project: TinyProject) -> None:
    outcome = train(project)
    check_sentence(outcome, ("disk is full|no space|no room",))
    assert only_failure_marker(full_disk)
    assert results(full_disk) == []
    assert [name for name in leftovers(full_disk) if "partial" in name] == []
    subprocess.run(["mount", "-o", "remount,size=100m", full_disk], check=True)
    assert train(project).status == 0
    assert [(full_disk / marker).exists() for marker in MARKERS] == [True, False, False]


@pytest.mark.slow
def test_file_size_limit_and_continue_without(project: TinyProject) -> None:
    limit = 20_000
    outcome = train(project, prepare=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit)))
    check_sentence(outcome, ("no room|too large",))
    assert only_failure_marker(project.root / JOB)
    assert results(project.root / JOB) == []
    assert train(project).status == 0


def test_log_on_a_full_disk(project: TinyProject) -> None:
    """A process of its own from its start, as the interpreter flushes its streams at the end of one."""
    command = [sys.executable, "-m", "relion_wrappers", "train", "--o", f"{JOB}/", *ORDINARY, *SMALL_RUN]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, cwd=project.root, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=full,
            stderr=subprocess.PIPE, text=True, timeout=HANGS_S, check=False,
        )  # fmt: skip
    check_sentence(Outcome(done.returncode, "", done.stderr), ("disk is full",))
    assert only_failure_marker(project.root / JOB)


def test_unreadable_star(project: TinyProject) -> None:
    project.star.chmod(0)
    outcome = train(project, prepare=obey_permissions)
    check_sentence(outcome, (r"particles\.star", "permission"))
    assert only_failure_marker(project.root / JOB)
    assert leftovers(project.root / JOB) == []


def test_unreadable_stack(project: TinyProject) -> None:
    project.stack.chmod(0)
    outcome = train(project, prepare=obey_permissions)
    check_sentence(outcome, (r"images\.mrcs", "permission"))
    assert only_failure_marker(project.root / JOB)
    assert leftovers(project.root / JOB) == []


def test_unreadable_folder_of_stacks(project: TinyProject) -> None:
    project.stack.parent.chmod(0)
    try:
        outcome = train(project, prepare=obey_permissions)
    finally:
        project.stack.parent.chmod(0o755)
    check_sentence(outcome, (r"images\.mrcs", "permission"))
    assert only_failure_marker(project.root / JOB)


def test_unwritable_output_folder(project: TinyProject) -> None:
    job = project.root / JOB
    job.chmod(0o555)
    try:
        outcome = train(project, prepare=obey_permissions)
    finally:
        job.chmod(0o755)
    check_sentence(outcome, (JOB, "permission"))
    assert list(job.iterdir()) == []


def test_output_folder_below_a_file(project: TinyProject) -> None:
    outcome = train(project, "--o", "particles.star/job001/")
    check_sentence(outcome, (r"particles\.star", "part of the path is a file"))
    assert project.star.read_text() == project.text(), "the input must never change"


def test_output_folder_missing_from_the_arguments(project: TinyProject) -> None:
    outcome = train(project, "--zdim", "1")
    check_sentence(outcome, ("--o",))


def test_a_cache_folder_that_cannot_be_made_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    sentence = have_compiler_cache()
    assert str(tmp_path / "file" / "cache") in sentence
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).is_dir()
    assert have_compiler_cache() == ""


def _lose_working_directory(folder: Path) -> None:
    os.chdir(folder)
    folder.rmdir()


@pytest.mark.parametrize("program", ["cryodrgn-ext", "cdx-relion-train"])
def test_a_working_directory_that_was_removed(program: str, project: TinyProject, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    words = ["train"] if program == "cryodrgn-ext" else []
    words += ["--o", str(project.root / JOB) + "/", "--in_parts", "particles.star"]
    outcome = knock(program, words, tmp_path, partial(_lose_working_directory, gone))
    check_sentence(outcome, ("working directory has been removed",))


def test_processes_that_cannot_reach_each_other_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_socket: socket.socket, _address: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(InputError, match="loopback"), ProcessGroup(2, 2, [], SilentMonitor()).assembled():
        pytest.fail("nobody can be reached")

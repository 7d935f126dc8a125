"""Stages, records, logs, locks and sentences: what makes a job resumable and its failures readable."""

from __future__ import annotations

import errno
import io
import resource
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file

from cryodrgn_ext.errors import InputError, JobAborted, ResumeError
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.results import record
from cryodrgn_ext.results.record import fingerprint_file, read_record, require_record, write_record
from cryodrgn_ext.settings import Settings, setting
from cryodrgn_ext.workflow.directory_lock import directory_lock
from cryodrgn_ext.workflow.failure import EXIT_ABORTED, EXIT_FAILURE, EXIT_INPUT_ERROR, explain, recorded_failure
from cryodrgn_ext.workflow.run_log import logged_run
from cryodrgn_ext.workflow.stages import STAGES_NAME, Stages


@dataclass(frozen=True)
class Little(Settings):
    o: Path = setting(help="Out")
    n: int = setting(3, help="Number")


def run_stage(stages: Stages, name: str, key: str) -> bool:
    done: list[str] = []
    stages.run(name, key, SilentMonitor(), name, lambda: done.append(name))
    return bool(done)


def test_a_finished_stage_is_not_done_again_unless_its_key_changes(tmp_path: Path) -> None:
    assert run_stage(Stages(tmp_path), "images", "a")
    assert not run_stage(Stages(tmp_path), "images", "a")
    assert run_stage(Stages(tmp_path), "images", "b")
    assert run_stage(Stages(tmp_path), "images", "a")


def test_a_stage_that_fails_is_not_finished_even_if_it_was_before(tmp_path: Path) -> None:
    stages = Stages(tmp_path)
    run_stage(stages, "images", "a")

    def fail() -> None:
        raise InputError("no")

    with pytest.raises(InputError):
        stages.run("images", "b", SilentMonitor(), "images", fail)
    assert stages.key("images") is None


def test_warnings_come_back_with_the_stage_that_raised_them(tmp_path: Path) -> None:
    monitor = SilentMonitor()
    monitor.warn("of the images")
    stages = Stages(tmp_path)
    raised = stages.run("poses", "a", monitor, "Poses", lambda: monitor.warn("of the poses"))
    assert raised == ["Warning: of the poses"]
    assert stages.run("maps", "a", monitor, "Maps", lambda: None) == []
    again = SilentMonitor()
    assert Stages(tmp_path).run("poses", "a", again, "Poses", lambda: None) == ["Warning: of the poses"]
    assert again.warnings == ["Warning: of the poses"]
    assert Stages(tmp_path).run("poses", "b", again, "Poses", lambda: None) == []  # another key: done anew, without


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff\xfe", b'{"images": 3}'])
def test_a_damaged_journal_means_that_everything_is_done_again(tmp_path: Path, damage: bytes) -> None:
    run_stage(Stages(tmp_path), "images", "a")
    (tmp_path / STAGES_NAME).write_bytes(damage)
    assert run_stage(Stages(tmp_path), "images", "a")


def test_a_record_comes_back_and_names_settings_versions_and_inputs(tmp_path: Path) -> None:
    (tmp_path / "in.star").write_text("data_\n")
    inputs = {"in_parts": fingerprint_file(tmp_path / "in.star")}
    write_record(tmp_path, "train", "finished", Little(o=Path("x")), inputs, {"resolution_A": 8.5})
    record = require_record(tmp_path, "train")
    assert record["settings"] == {"o": "x", "n": 3}
    assert record["inputs"]["in_parts"]["bytes"] == 6
    assert record["versions"]["numpy"]
    with pytest.raises(InputError, match="holds the results of a train job"):
        require_record(tmp_path, "select")


def test_fingerprints_follow_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("1")
    (tmp_path / "c").write_text("2")
    sums = [fingerprint_file(tmp_path / name)["sha256"] for name in "abc"]
    assert sums[0] == sums[1] != sums[2]
    with pytest.raises(InputError, match="no such file"):
        fingerprint_file(tmp_path / "d")


@pytest.mark.parametrize("text", ["just words", "job: train\n", "a: [1", "!!python/object/apply:os.getcwd []"])
def test_a_foreign_job_yaml_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(InputError, match=r"job\.yaml"):
        read_record(tmp_path)


def test_a_directory_without_record(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    with pytest.raises(InputError, match="not a result directory of a train job"):
        require_record(tmp_path, "train")


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (InputError("row 3\n is wrong."), EXIT_INPUT_ERROR, "row 3 is wrong."),
        (ResumeError("changed"), EXIT_FAILURE, "changed"),
        (JobAborted("x"), EXIT_ABORTED, "the same command resumes"),
        (KeyboardInterrupt(), EXIT_ABORTED, "aborted"),
        (MemoryError(), EXIT_FAILURE, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), EXIT_FAILURE, "out of memory"),
        (OSError(errno.ENOSPC, "No space", "x/y.mrc"), EXIT_FAILURE, "x/y.mrc: the disk is full"),
        (PermissionError(errno.EACCES, "denied", "z"), EXIT_FAILURE, "z: permission denied"),
        (ZeroDivisionError("division by zero"), EXIT_FAILURE, "unexpected ZeroDivisionError"),
    ],
)
def test_every_error_becomes_one_line(error: BaseException, code: int, says: str) -> None:
    failure = explain(error)
    assert failure.exit_code == code
    assert says in failure.sentence
    assert "\n" not in failure.sentence


def test_what_the_system_says_is_told_also_where_a_library_hides_it(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(SafetensorError) as caught:
            save_file({"latents": torch.zeros(100_000)}, str(tmp_path / "model.safetensors"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "larger than the file system or your limit allows" in explain(caught.value).sentence
    full = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert "the disk is full" in explain(full).sentence


def test_the_log_keeps_messages_and_tracebacks_and_the_screen_only_messages(tmp_path: Path) -> None:
    screen = io.StringIO()

    def run() -> None:
        with logged_run(tmp_path / "new", "test", screen=screen) as monitor:
            monitor.message("reading")
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        run()
    log = (tmp_path / "new/run.log").read_text()
    assert "reading" in log
    assert "Traceback" in log
    assert screen.getvalue() == "reading\n"
    with logged_run(tmp_path / "new", "second", screen=screen):
        pass
    assert "Traceback" in (tmp_path / "new/run.log").read_text()


def test_the_monitor_of_a_log_polls_for_aborts(tmp_path: Path) -> None:
    with pytest.raises(JobAborted), logged_run(tmp_path, "t", lambda: True, io.StringIO()) as monitor:
        monitor.poll()


def test_a_locked_directory_is_refused(tmp_path: Path) -> None:
    with (
        directory_lock(tmp_path),
        pytest.raises(InputError, match="another run is at work"),
        directory_lock(tmp_path, patience_s=0.0),
    ):
        pass
    with directory_lock(tmp_path, patience_s=0.0):
        pass


def test_records_are_plain_yaml(tmp_path: Path) -> None:
    write_record(tmp_path, "x", "running", Little(o=Path("ä b")), {}, {})
    assert yaml.safe_load((tmp_path / "job.yaml").read_text())["settings"]["o"] == "ä b"


@pytest.mark.parametrize(("error", "status"), [
    (OSError(errno.ENOSPC, "No space left on device"), "failed"),
    (InputError("row 3 is wrong"), "failed"),
    (JobAborted("stop"), "aborted"),
    (KeyboardInterrupt(), "aborted"),
])  # fmt: skip
@pytest.mark.parametrize("full", [False, True])
def test_the_record_of_a_job_that_ended_says_so_also_on_a_full_disk(
    error: BaseException, status: str, full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(tmp_path, "x", "running", Little(o=Path("a")), {"n": 5}, {})

    def no_room(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    if full:
        monkeypatch.setattr(record, "atomic_write_text", no_room)
    with pytest.raises(type(error)), recorded_failure(tmp_path):
        raise error
    found = read_record(tmp_path)
    assert found is not None
    assert (found["status"], found["inputs"]) == (status, {"n": 5})
    assert full or found["results"]["error"]


def test_a_failure_leaves_the_record_of_a_finished_job(tmp_path: Path) -> None:
    write_record(tmp_path, "x", "finished", Little(o=Path("a")), {}, {"n": 5})
    with pytest.raises(InputError), recorded_failure(tmp_path):
        raise InputError("no")
    found = read_record(tmp_path)
    assert found is not None
    assert (found["status"], found["results"]) == ("finished", {"n": 5})

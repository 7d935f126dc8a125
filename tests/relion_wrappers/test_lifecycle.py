"""Exactly one marker in every way out of an External job."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cryodrgn_ext.workflow.failure import STOP_SIGNALS
from tests.patience import HANGS_S

MARKERS = {"RELION_JOB_EXIT_SUCCESS", "RELION_JOB_EXIT_FAILURE", "RELION_JOB_EXIT_ABORTED"}
PRELUDE = """
import ctypes, os, sys, time
from pathlib import Path
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.progress import Monitor
from relion_wrappers.lifecycle import run_external_job
out = Path("External/job001")
def loop(abort):
    monitor = Monitor(abort_requested=abort)
    (out / "started").write_text(str(os.getpid()))
    while True:
        monitor.poll()
        time.sleep(0.02)
def work(arguments, abort):
{body}
sys.exit(run_external_job(sys.argv[1:], work))
"""


def start(tmp_path: Path, body: str, arguments: list[str] | None = None, **popen: object) -> subprocess.Popen[str]:
    script = tmp_path / "fake_job.py"
    script.write_text(PRELUDE.replace("{body}", "\n".join("    " + line for line in body.splitlines())))
    job = tmp_path / "External" / "job001"
    job.mkdir(parents=True, exist_ok=True)
    arguments = ["--o", "External/job001/"] if arguments is None else arguments
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.Popen([sys.executable, str(script), *arguments], cwd=tmp_path, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **popen)  # type: ignore[call-overload]  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=HANGS_S)
    return process.returncode, out, err


def markers(tmp_path: Path) -> set[str]:
    return {p.name for p in (tmp_path / "External/job001").iterdir()} & (MARKERS | {"RELION_JOB_ABORT_NOW"})


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + HANGS_S
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def started(tmp_path: Path) -> Path:
    path = tmp_path / "External/job001/started"
    wait_for(lambda: path.exists() and path.read_text() != "")
    return path


@pytest.mark.parametrize(
    ("body", "marker", "code", "sentence"),
    [
        ("return", "SUCCESS", 0, ""),
        ("raise InputError('row 3 is wrong')", "FAILURE", 2, "row 3 is wrong"),
        ("raise ValueError('boom')", "FAILURE", 1, "unexpected ValueError: boom"),
        ("raise MemoryError", "FAILURE", 1, "out of memory"),
        ("open('/nonexistent/file')", "FAILURE", 1, "/nonexistent/file: there is no such file"),
        ("raise OSError(28, 'No space left on device', 'x.mrc')", "FAILURE", 1, "x.mrc: the disk is full"),
        ("sys.exit(0)", "FAILURE", 1, "ended early"),
        ("sys.exit('bye')", "FAILURE", 1, "ended early"),
        ("os._exit(3)", "FAILURE", 3, ""),
        ("import no_such_module", "FAILURE", 1, "no_such_module"),
        ("os.kill(os.getpid(), 9)", "FAILURE", 1, "ran out of memory"),
        ("ctypes.string_at(0)", "FAILURE", 1, "SIGSEGV"),
        ("os.abort()", "FAILURE", 1, "SIGABRT"),
    ],
)
def test_every_way_out_leaves_one_marker(tmp_path: Path, body: str, marker: str, code: int, sentence: str) -> None:
    returned, _, err = finish(start(tmp_path, body))
    assert markers(tmp_path) == {f"RELION_JOB_EXIT_{marker}"}
    assert returned == code
    assert sentence in err
    assert len(err.splitlines()) <= 1
    assert "Traceback" not in err


def test_real_lack_of_memory_is_a_failure(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    returned, _, err = finish(start(tmp_path, "x = bytearray(1 << 33)", preexec_fn=limit))
    assert returned == 1
    assert "out of memory" in err
    assert markers(tmp_path) == {"RELION_JOB_EXIT_FAILURE"}


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signals_to_the_wrapper_abort(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, "loop(abort)")
    started(tmp_path)
    process.send_signal(number)
    returned, _, err = finish(process)
    assert returned == 130
    assert "aborted" in err
    assert markers(tmp_path) == {"RELION_JOB_EXIT_ABORTED"}


def test_what_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    """RELION that was started under nohup outlives the terminal, and so do its jobs."""
    body = "loop(lambda: abort() or (out / 'enough').exists())"
    process = start(tmp_path, body, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    started(tmp_path)
    process.send_signal(signal.SIGHUP)
    os.kill(int((tmp_path / "External/job001/started").read_text()), signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    (tmp_path / "External/job001/enough").touch()
    assert finish(process)[0] == 130


def test_signal_to_the_whole_group_aborts(tmp_path: Path) -> None:
    process = start(tmp_path, "loop(abort)", start_new_session=True)
    started(tmp_path)
    os.killpg(process.pid, signal.SIGTERM)
    assert finish(process)[0] == 130
    assert markers(tmp_path) == {"RELION_JOB_EXIT_ABORTED"}


def test_abort_file_is_honoured_and_removed(tmp_path: Path) -> None:
    process = start(tmp_path, "loop(abort)")
    started(tmp_path)
    (tmp_path / "External/job001/RELION_JOB_ABORT_NOW").touch()
    assert finish(process)[0] == 130
    assert markers(tmp_path) == {"RELION_JOB_EXIT_ABORTED"}


def test_abort_is_honoured_inside_a_call_that_never_returns(tmp_path: Path) -> None:
    # PyDLL keeps the interpreter's lock during the sleep: no Python code can run in the child.
    body = "(out / 'started').write_text('1')\n(out / '.map.x.partial.mrc').touch()\nctypes.PyDLL(None).sleep(3600)"
    process = start(tmp_path, body)
    started(tmp_path)
    (tmp_path / "External/job001/RELION_JOB_ABORT_NOW").touch()
    assert finish(process)[0] == 130
    assert markers(tmp_path) == {"RELION_JOB_EXIT_ABORTED"}
    assert not list((tmp_path / "External/job001").glob(".*partial*"))


def test_abort_that_a_library_swallows_is_still_an_abort(tmp_path: Path) -> None:
    process = start(tmp_path, "try:\n    loop(abort)\nexcept Exception:\n    raise RuntimeError('wrapped')")
    started(tmp_path)
    process.terminate()
    assert finish(process)[0] == 130
    assert markers(tmp_path) == {"RELION_JOB_EXIT_ABORTED"}


def test_sigkill_of_the_wrapper_takes_the_work_with_it_and_leaves_no_marker(tmp_path: Path) -> None:
    process = start(tmp_path, "loop(abort)")
    worker = int(started(tmp_path).read_text())
    assert worker != process.pid
    process.kill()
    process.communicate()

    def gone() -> bool:
        try:
            return Path(f"/proc/{worker}/stat").read_text().split(")")[1].split()[0] == "Z"
        except FileNotFoundError:
            return True

    wait_for(gone)
    assert markers(tmp_path) == set()
    assert finish(start(tmp_path, "return"))[0] == 0
    assert markers(tmp_path) == {"RELION_JOB_EXIT_SUCCESS"}


def test_stale_markers_are_removed_at_the_start(tmp_path: Path) -> None:
    job = tmp_path / "External/job001"
    job.mkdir(parents=True)
    for marker in MARKERS:
        (job / marker).touch()
    process = start(tmp_path, "loop(abort)")
    started(tmp_path)
    assert markers(tmp_path) == set()
    process.terminate()
    finish(process)
    assert markers(tmp_path) == {"RELION_JOB_EXIT_ABORTED"}


def test_an_abort_request_older_than_job_star_belongs_to_an_earlier_run(tmp_path: Path) -> None:
    job = tmp_path / "External/job001"
    job.mkdir(parents=True)
    (job / "RELION_JOB_ABORT_NOW").touch()
    os.utime(job / "RELION_JOB_ABORT_NOW", (1e9, 1e9))
    (job / "job.star").touch()
    assert finish(start(tmp_path, "return"))[0] == 0
    assert markers(tmp_path) == {"RELION_JOB_EXIT_SUCCESS"}


def test_an_abort_request_made_while_queued_stops_the_job_at_once(tmp_path: Path) -> None:
    job = tmp_path / "External/job001"
    job.mkdir(parents=True)
    (job / "job.star").touch()
    os.utime(job / "job.star", (1e9, 1e9))
    (job / "RELION_JOB_ABORT_NOW").touch()
    assert finish(start(tmp_path, "loop(abort)"))[0] == 130
    assert markers(tmp_path) == {"RELION_JOB_EXIT_ABORTED"}


@pytest.mark.parametrize("option", ["--pipeline_control", "--pipeline-control"])
def test_without_o_the_marker_goes_where_pipeline_control_points(tmp_path: Path, option: str) -> None:
    returned, _, _ = finish(start(tmp_path, "raise InputError('x')", [option, "External/job001/"]))
    assert returned == 2
    assert markers(tmp_path) == {"RELION_JOB_EXIT_FAILURE"}


@pytest.mark.parametrize("arguments", [[], ["--o"], ["--o", "--j", "1"], ["--in_parts", "x.star"]])
def test_without_any_directory_there_is_one_sentence(tmp_path: Path, arguments: list[str]) -> None:
    returned, _, err = finish(start(tmp_path, "return", arguments))
    assert returned == 2
    assert err.startswith("ERROR: --o is missing")
    assert len(err.splitlines()) == 1


def test_a_second_run_in_the_same_directory_is_refused_and_does_not_touch_the_first(tmp_path: Path) -> None:
    first = start(tmp_path, "loop(abort)")
    started(tmp_path)
    returned, _, err = finish(start(tmp_path, "return"))
    assert returned == 2
    assert "another run is at work" in err
    assert markers(tmp_path) == set()
    assert first.poll() is None
    first.terminate()
    finish(first)
    assert markers(tmp_path) == {"RELION_JOB_EXIT_ABORTED"}


def test_a_directory_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "afile").touch()
    returned, _, err = finish(start(tmp_path, "return", ["--o", "afile/"]))
    assert returned != 0
    assert "afile" in err
    assert len(err.splitlines()) == 1


def test_full_disk_still_gets_its_marker(tmp_path: Path) -> None:
    """The marker is a rename of a reserved file: it needs no space. A file size limit of zero stands for the disk."""
    body = """import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
open(out / 'map.mrc', 'wb', buffering=0).write(b'x')"""
    returned, _, err = finish(start(tmp_path, body))
    assert returned == 1
    assert "ERROR" in err
    assert markers(tmp_path) == {"RELION_JOB_EXIT_FAILURE"}

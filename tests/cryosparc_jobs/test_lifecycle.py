"""Whatever ends the work, the job's status tells the truth, and a job that was killed stops the work."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cryodrgn_ext.errors import InputError, JobAborted
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.workflow.failure import STOP_SIGNALS
from cryosparc_jobs import lifecycle
from cryosparc_jobs.client import create_external_job, find_output
from cryosparc_jobs.errors import MasterError
from cryosparc_jobs.external_job import ExternalJob
from cryosparc_jobs.lifecycle import EventLog, run_external_job
from cryosparc_jobs.slots import Slot
from tests.cryosparc_jobs.imitated_project import Lab
from tests.cryosparc_master import Fault

pytestmark = pytest.mark.filterwarnings("ignore:.*API client:UserWarning")


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "END_PAUSE_S", 0.01)


@pytest.fixture
def job(lab: Lab) -> ExternalJob:
    made = create_external_job(lab.cs, lab.project, "W1", "A title")
    made.connect("particles", find_output(lab.cs, lab.project, lab.parent, "particles"), [Slot("blob")])
    return made


def run(job: ExternalJob, folder: Path, work: Callable[[Monitor], Any], log_interval_s: float = 0.05) -> Any:
    return run_external_job(job, folder / "work", "test", work, poll_s=0.1, log_interval_s=log_interval_s)


def raising(error: BaseException) -> Callable[[Monitor], None]:
    def work(_: Monitor) -> None:
        raise error

    return work


MOST_STEPS = 10_000  # of ten milliseconds or more, while CryoSPARC is asked every hundred


def endless(monitor: Monitor) -> None:
    """Work that only the Monitor can stop."""
    for step, _ in enumerate(monitor.track(iter(int, 1), "Training", total=10**9)):
        time.sleep(0.01)
        assert step < MOST_STEPS, "nobody stopped the work"


def test_work_that_ends_well_completes_the_job(lab: Lab, job: ExternalJob, tmp_path: Path) -> None:
    def work(monitor: Monitor) -> int:
        monitor.message("Reading particles")
        assert lab.state(job.uid).model.status == "running"
        return 7

    assert run(job, tmp_path, work) == 7
    assert lab.state(job.uid).history == ["building", "running", "completed"]
    assert lab.state(job.uid).log_text() == "Reading particles"
    assert "Reading particles" in (tmp_path / "work" / "run.log").read_text()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (InputError("The mask has the wrong box."), "The mask has the wrong box."),
        (ValueError("x" * 200_000), "unexpected ValueError: xxxx"),
        (MemoryError(), "out of memory"),
        (KeyboardInterrupt(), "interrupted on the machine"),
        (SystemExit(3), "exit status 3"),
        (JobAborted("the job was aborted by the user"), "aborted"),
        (RuntimeError(""), "unexpected RuntimeError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_whatever_ends_the_work_marks_the_job_as_failed(
    lab: Lab, job: ExternalJob, tmp_path: Path, error: BaseException, sentence: str
) -> None:
    with pytest.raises(type(error)):
        run(job, tmp_path, raising(error))
    state = lab.state(job.uid)
    assert state.history == ["building", "running", "failed"]
    assert sentence in state.log_text()
    assert len(state.log_text()) < 2000
    assert "Traceback" not in state.log_text()
    assert "Traceback" in (tmp_path / "work" / "run.log").read_text()


@pytest.mark.parametrize(
    ("number", "expected"),
    [(number, KeyboardInterrupt if number == signal.SIGINT else SystemExit) for number in STOP_SIGNALS],
)
def test_signals_mark_the_job_as_failed(
    lab: Lab, job: ExternalJob, tmp_path: Path, number: signal.Signals, expected: type[BaseException]
) -> None:
    before = [signal.getsignal(one) for one in STOP_SIGNALS]

    def work(monitor: Monitor) -> None:
        threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
        endless(monitor)

    with pytest.raises(expected):
        run(job, tmp_path, work)
    assert lab.state(job.uid).history == ["building", "running", "failed"]
    assert f"({number.name})" in lab.state(job.uid).log_text()
    assert [signal.getsignal(one) for one in STOP_SIGNALS] == before


def test_signal_that_a_library_swallowed_still_stops_the_work(lab: Lab, job: ExternalJob, tmp_path: Path) -> None:
    def work(monitor: Monitor) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:
            pass
        endless(monitor)

    with pytest.raises(JobAborted):
        run(job, tmp_path, work)
    assert lab.state(job.uid).history == ["building", "running", "failed"]
    assert "(SIGINT)" in lab.state(job.uid).log_text()


def test_second_signal_does_not_disturb_the_report(lab: Lab, job: ExternalJob, tmp_path: Path) -> None:
    lab.master.faults.add(Fault("jobs.mark_failed", "slow", seconds=0.5))

    def work(_: Monitor) -> None:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        raise InputError("A fault.")

    with pytest.raises(InputError):
        run(job, tmp_path, work)
    assert lab.state(job.uid).history == ["building", "running", "failed"]


def test_job_killed_in_the_web_page_stops_the_work_and_stays_killed(lab: Lab, job: ExternalJob, tmp_path: Path) -> None:
    def work(monitor: Monitor) -> None:
        lab.master.instance.kill(lab.project, job.uid)
        endless(monitor)

    with pytest.raises(JobAborted):
        run(job, tmp_path, work)
    assert lab.state(job.uid).history == ["building", "running", "killed"]
    assert "it is killed in CryoSPARC" in lab.state(job.uid).log_text()


def test_job_killed_at_the_last_moment_is_not_completed(lab: Lab, job: ExternalJob, tmp_path: Path) -> None:
    with pytest.raises(JobAborted, match="it is killed in CryoSPARC"):
        run(job, tmp_path, lambda _: lab.master.instance.kill(lab.project, job.uid))
    assert lab.state(job.uid).history == ["building", "running", "killed"]


def test_what_a_kill_breaks_is_not_blamed(lab: Lab, job: ExternalJob, tmp_path: Path) -> None:
    def work(_: Monitor) -> None:
        lab.master.instance.kill(lab.project, job.uid)
        raise MasterError("Job P1-J2 could not save its output: it is killed.")

    with pytest.raises(JobAborted, match="it is killed in CryoSPARC"):
        run(job, tmp_path, work)
    assert lab.state(job.uid).history == ["building", "running", "killed"]


def test_cleared_job_stops_the_work(lab: Lab, job: ExternalJob, tmp_path: Path) -> None:
    def work(monitor: Monitor) -> None:
        lab.cs.api.jobs.clear(lab.project, job.uid)
        endless(monitor)

    with pytest.raises(JobAborted):
        run(job, tmp_path, work)
    assert lab.state(job.uid).history == ["building", "running", "building"]


def test_master_that_is_away_for_a_while_costs_nothing(lab: Lab, job: ExternalJob, tmp_path: Path) -> None:
    def work(monitor: Monitor) -> None:
        for name in ("jobs.get_status", "jobs.add_event_log"):
            lab.master.faults.add(Fault(name, "drop", times=6))
        monitor.message("Said while the master was away")
        time.sleep(0.6)

    run(job, tmp_path, work)
    assert lab.state(job.uid).history == ["building", "running", "completed"]
    assert "Said while the master was away" in lab.state(job.uid).log_text()


def test_end_is_reported_again_until_it_is_heard(lab: Lab, job: ExternalJob, tmp_path: Path) -> None:
    lab.master.faults.add(Fault("jobs.mark_completed", "error", times=3))
    run(job, tmp_path, lambda _: None)
    assert lab.state(job.uid).history == ["building", "running", "completed"]


def test_end_that_nobody_hears_is_said_on_the_screen(
    lab: Lab, job: ExternalJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.master.faults.add(Fault("jobs.mark_failed", "error", times=-1))
    with pytest.raises(InputError):
        run(job, tmp_path, raising(InputError("A fault.")))
    assert lab.state(job.uid).model.status == "running"
    warning = capsys.readouterr().err
    assert "may stay shown as running" in warning
    assert "The job ended because: A fault." in warning


def test_job_that_cannot_start_says_why(lab: Lab, tmp_path: Path) -> None:
    job = create_external_job(lab.cs, lab.project, "W1", "A title")
    source = find_output(lab.cs, lab.project, lab.parent, "particles")
    job.connect("particles", source, [Slot("components_mode_0", "components")])
    with pytest.raises(MasterError, match="could not start: job J2 has build errors"):
        run(job, tmp_path, lambda _: None)
    assert lab.state(job.uid).model.status == "building"
    assert "build errors" in lab.state(job.uid).log_text()


def test_log_is_posted_at_a_human_rate(lab: Lab, job: ExternalJob, tmp_path: Path) -> None:
    def work(monitor: Monitor) -> None:
        for line in range(2000):
            monitor.message(f"line {line}")
            time.sleep(0.0005)

    run(job, tmp_path, work, log_interval_s=0.5)
    assert lab.state(job.uid).log_text().splitlines() == [f"line {line}" for line in range(2000)]
    posts = [call.when for call in lab.master.calls if call.operation == "jobs.add_event_log"]
    assert len(posts) <= 6
    assert all(later - earlier > 0.4 for earlier, later in itertools.pairwise(posts[:-1]))


def test_progress_replaces_the_last_report_of_its_kind(lab: Lab, job: ExternalJob) -> None:
    log = EventLog(job, interval_s=0)
    for done in range(1, 6):
        log.write(f"Training: {done}/10 ({done}0 %), 3 s left\n")
        log.write(f"epoch {done}\n")
        log.post()
    log.write("Images: 1/10 (10 %), 3 s left\nunfinished line")
    log.post()
    lines = lab.state(job.uid).log_text().splitlines()
    assert [line for line in lines if "left" in line] == [
        "Training: 5/10 (50 %), 3 s left", "Images: 1/10 (10 %), 3 s left",
    ]  # fmt: skip
    assert [line for line in lines if "epoch" in line] == [f"epoch {done}" for done in range(1, 6)]


def test_backlog_of_a_master_that_is_away_is_bounded(lab: Lab, job: ExternalJob) -> None:
    lab.master.faults.add(Fault("jobs.add_event_log", "error", times=1))
    log = EventLog(job, interval_s=0)
    log.write("".join(f"{line}\n" for line in range(lifecycle.LONGEST_BACKLOG + 5)))
    with pytest.raises(MasterError):
        log.post(now=True)
    log.post(now=True)
    assert lab.state(job.uid).log_text().splitlines()[0] == "5"


def test_work_in_another_thread_needs_no_signals(lab: Lab, job: ExternalJob, tmp_path: Path) -> None:
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(run(job, tmp_path, lambda _: 3)))
    thread.start()
    thread.join()
    assert results == [3]
    assert lab.state(job.uid).model.status == "completed"

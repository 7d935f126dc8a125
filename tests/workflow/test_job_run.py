"""The skeleton of a job, around one that writes a number: what is refused, recorded, kept and said again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cryodrgn_ext.errors import InputError, JobAborted, ResumeError
from cryodrgn_ext.options.result_settings import ResultSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.results.record import fingerprint_files
from cryodrgn_ext.settings import fingerprint, setting
from cryodrgn_ext.workflow.continuation import Continuation
from cryodrgn_ext.workflow.job_result import JobResult
from cryodrgn_ext.workflow.job_run import CheckedInputs, JobRun


@dataclass(frozen=True)
class CountSettings(ResultSettings):
    in_parts: Path = setting(help="A file")
    step: int = setting(1, low=1, help="Step")
    seed: int = setting(0, help="Seed")
    abort: bool = setting(False, help="Abort in the last stage")


@dataclass(frozen=True, kw_only=True)
class CountInputs(CheckedInputs):
    size: int


class CountRun(JobRun[CountSettings, CountInputs]):
    name = "count"

    @classmethod
    def check(cls, settings: CountSettings, monitor: Monitor) -> CountInputs:
        size = settings.in_parts.stat().st_size
        if size == 0:
            raise InputError(f"{settings.in_parts} is empty.")
        begun = (settings.o / "size.txt").exists()
        return CountInputs(record=fingerprint_files({"in_parts": settings.in_parts}), size=size,
                           continuation=Continuation("count", begun, (), ("seed",)))  # fmt: skip

    def work(self) -> tuple[Mapping[str, Any], JobResult]:
        size, doubled = self.layout.root / "size.txt", self.layout.root / "doubled.txt"
        key = fingerprint(self.inputs.record["in_parts"]["sha256"])

        def count() -> None:
            self.monitor.warn("The file is small.")
            size.write_text(str(self.inputs.size))

        def double() -> None:
            if self.settings.abort:
                raise JobAborted("stop")
            doubled.write_text(str(2 * int(size.read_text()) * self.settings.step))

        self.stage("count", key, "Counting", count, size)
        self.stage("double", fingerprint(key, self.settings.step), "Doubling", double, doubled)
        self.note(f"Doubled by {self.settings.step}.")
        return {"size": self.inputs.size}, JobResult(self.layout.root)


@pytest.fixture
def settings(tmp_path: Path) -> CountSettings:
    (tmp_path / "in.txt").write_text("five.")
    return CountSettings(in_parts=tmp_path / "in.txt", o=tmp_path / "out")


def record(settings: CountSettings) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((settings.o / "job.yaml").read_text())
    return found


def test_a_finished_job_is_recorded_with_its_notes(settings: CountSettings) -> None:
    CountRun.start(settings, SilentMonitor())
    found = record(settings)
    assert (found["job"], found["status"]) == ("count", "finished")
    assert found["results"]["notes"] == ["Warning: The file is small.", "Doubled by 1."]
    assert set(found["results"]["seconds"]) == {"count", "double"}
    assert found["inputs"]["in_parts"]["bytes"] == 5
    assert (settings.o / "doubled.txt").read_text() == "10"


def test_a_second_run_does_what_has_changed_and_warns_again(settings: CountSettings) -> None:
    CountRun.start(settings, SilentMonitor())
    made = (settings.o / "size.txt").stat().st_mtime_ns
    CountRun.start(replace(settings, step=3), SilentMonitor())
    assert (settings.o / "doubled.txt").read_text() == "30"
    assert (settings.o / "size.txt").stat().st_mtime_ns == made
    assert record(settings)["results"]["notes"] == ["Warning: The file is small.", "Doubled by 3."]


def test_what_is_refused_leaves_nothing(settings: CountSettings) -> None:
    settings.in_parts.write_text("")
    with pytest.raises(InputError, match="is empty"):
        CountRun.start(settings, SilentMonitor())
    assert not settings.o.exists()


def test_an_aborted_job_is_recorded_as_such_and_goes_on(settings: CountSettings) -> None:
    with pytest.raises(JobAborted):
        CountRun.start(replace(settings, abort=True), SilentMonitor())
    assert record(settings)["status"] == "aborted"
    (settings.o / ".map.x.partial.mrc").touch()
    CountRun.start(settings, SilentMonitor())
    assert record(settings)["status"] == "finished"
    assert record(settings)["results"]["notes"][0] == "Warning: The file is small."
    assert not (settings.o / ".map.x.partial.mrc").exists()


def test_results_of_another_job_are_refused_before_inputs_are_read(settings: CountSettings) -> None:
    CountRun.start(settings, SilentMonitor())
    text = (settings.o / "job.yaml").read_text()
    (settings.o / "job.yaml").write_text(text.replace("job: count", "job: train"))
    settings.in_parts.unlink()
    with pytest.raises(InputError, match="holds the results of a train job"):
        CountRun.start(settings, SilentMonitor())


def test_what_a_begun_work_depends_on_may_not_change(settings: CountSettings) -> None:
    CountRun.start(settings, SilentMonitor())
    with pytest.raises(ResumeError, match=r"--seed was 0 .* and is 1 now: the count cannot be continued"):
        CountRun.start(replace(settings, seed=1), SilentMonitor())
    (settings.o / "size.txt").unlink()  # nothing begun: it may
    CountRun.start(replace(settings, seed=1), SilentMonitor())
    settings.in_parts.write_text("other")
    with pytest.raises(ResumeError, match="another file"):
        CountRun.start(settings, SilentMonitor())


def test_a_setting_that_an_earlier_version_did_not_have_stands_for_its_default(settings: CountSettings) -> None:
    CountRun.start(settings, SilentMonitor())
    text = (settings.o / "job.yaml").read_text()
    (settings.o / "job.yaml").write_text(text.replace("  seed: 0\n", ""))
    CountRun.start(settings, SilentMonitor())
    (settings.o / "job.yaml").write_text(text.replace("  seed: 0\n", ""))
    with pytest.raises(ResumeError, match="--seed was 0"):
        CountRun.start(replace(settings, seed=2), SilentMonitor())

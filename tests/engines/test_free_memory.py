"""Memory that is chosen from what is free: of the machine, of the queue's limit, of the processes that share it."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from cryodrgn_ext.engines import free_memory as module
from cryodrgn_ext.engines.context import FREE_SHARE, EngineContext
from cryodrgn_ext.engines.free_memory import free_memory
from cryodrgn_ext.engines.settings import ComputeSettings
from cryodrgn_ext.progress import SilentMonitor

CPU = torch.device("cpu")


def test_no_more_is_free_than_the_machine_has() -> None:
    words = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    assert 0 < free_memory(CPU) <= 1024 * int(words["MemTotal"].split()[0])


@pytest.mark.parametrize(
    ("line", "folder", "limit", "usage"),
    [
        ("0::/job_7/step_0", "job_7", "memory.max", "memory.current"),  # the limit is the job's, not the step's
        ("9:cpu,memory:/slurm/job_7", "memory/slurm/job_7", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
def test_a_queues_limit_counts(tmp_path: Path, line: str, folder: str, limit: str, usage: str) -> None:
    (tmp_path / "groups").write_text(f"3:cpuset:/other\n{line}\n")
    root = tmp_path / "root"
    (root / folder).mkdir(parents=True)
    (root / folder / limit).write_text("5000000000\n")
    (root / folder / usage).write_text("2000000000\n")
    assert module._group(tmp_path / "groups", root) == 3e9
    (root / folder / limit).write_text("max\n")
    assert module._group(tmp_path / "groups", root) == float("inf")


def test_a_limit_of_the_address_space_counts() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used + 10**9, before[1]))
        assert free_memory(CPU) <= 1.1e9
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_half_of_it_is_taken_and_processes_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryodrgn_ext.engines.context.free_memory", lambda device: 16e9)

    def kept(memory_GB: float | None) -> EngineContext:
        return EngineContext.of(ComputeSettings(device="cpu", memory_GB=memory_GB), None, SilentMonitor())

    assert kept(None).memory_bytes == FREE_SHARE * 16e9
    assert kept(3.0).memory_bytes == kept(3.0).work_bytes == 3e9
    alone = kept(None)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    shared = kept(None)
    assert shared.memory_bytes == alone.memory_bytes / 4
    assert shared.work_bytes == alone.work_bytes  # sums are rounded by it

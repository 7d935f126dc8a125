"""Processes that compute together: shards, sums, gathered rows, and what happens when one of them fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cryodrgn_ext.engines.distributed import PeerLost, Workers, current, environment_rank, join
from cryodrgn_ext.errors import InputError
from tests.engines.processes import run_group

ROWS = 11
HERE = "tests.engines.test_distributed"


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("n", [0, 5, 16, 1001])
def test_shards_cover_all_rows_once_and_evenly(n: int, size: int) -> None:
    shards = [Workers(rank, size).shard(n) for rank in range(size)]
    assert [row for shard in shards for row in shard] == list(range(n))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_a_process_alone_changes_nothing() -> None:
    alone = current()
    value = torch.arange(3.0)
    alone.sum(value)
    assert (alone.rank, alone.size, value.tolist()) == (0, 1, [0.0, 1.0, 2.0])
    assert torch.equal(alone.gather_rows(value, 3), value)
    assert alone.share({"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    ("environment", "words"),
    [({"RANK": "2", "WORLD_SIZE": "2"}, "torchrun"), ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK=x"),
     ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR")],
)  # fmt: skip
def test_a_broken_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], words: str
) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=words):
        environment_rank()


def sum_and_gather(folder: str) -> None:
    with join() as group:
        assert current() is group
        mine = torch.tensor(list(group.shard(ROWS)), dtype=torch.float32)
        total, transform = mine.sum().double(), torch.full((2,), 1j * (group.rank + 1), dtype=torch.complex64)
        group.sum(total, transform)
        rows = group.gather_rows(torch.stack([mine, mine**2], 1), ROWS)
        said = group.share({"go": True, "name": "Å"} if group.is_first else None)
        np.savez(
            Path(folder) / f"{group.rank}.npz", total=total, transform=transform, rows=rows, said=str(sorted(said))
        )


def test_two_processes_sum_gather_and_share(tmp_path: Path) -> None:
    ends = run_group(f"{HERE}:sum_and_gather", 2, str(tmp_path))
    assert [end.returncode for end in ends] == [0, 0], ends
    for rank in range(2):
        with np.load(tmp_path / f"{rank}.npz") as got:
            assert got["total"] == sum(range(ROWS))
            assert np.array_equal(got["transform"], [3j, 3j])
            assert np.array_equal(got["rows"], np.stack([np.arange(ROWS), np.arange(ROWS) ** 2], 1))
            assert got["said"] == "['go', 'name']"


def fail_in_the_second() -> None:
    with join() as group:
        if not group.is_first:
            raise SystemExit(3)
        try:
            group.sum(torch.zeros(2))
        except PeerLost:
            raise SystemExit(4) from None


def test_the_others_learn_that_a_process_has_failed() -> None:
    ends = run_group(f"{HERE}:fail_in_the_second", 2)
    assert [end.returncode for end in ends] == [4, 3], ends


def train_and_count_threads(folder: str) -> None:
    with join() as group:
        weight = torch.nn.Parameter(torch.ones(2))
        weight.sum().backward()
        assert weight.grad is not None
        group.sum(weight.grad)
        torch.optim.Adam([weight]).step()
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    Path(folder, f"{group.rank}.txt").write_text("".join(name for name in names if "gloo" in name))


def test_no_thread_of_the_group_outlives_it(tmp_path: Path) -> None:
    # One that does takes the process down with SIGABRT, now and then, when it exits.
    ends = run_group(f"{HERE}:train_and_count_threads", 2, str(tmp_path))
    assert [end.returncode for end in ends] == [0, 0], ends
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == ["", ""]

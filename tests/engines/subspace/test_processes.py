"""Two processes, each with its half of the images, come to what one process comes to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cryodrgn_ext.engines.base import load_heterogeneity
from cryodrgn_ext.engines.distributed import join
from cryodrgn_ext.engines.subspace import em
from cryodrgn_ext.engines.subspace.engine import train
from cryodrgn_ext.engines.subspace.heterogeneity import SubspaceHeterogeneity
from cryodrgn_ext.engines.subspace.settings import SubspaceSettings
from tests.engines.contexts import context
from tests.engines.linear_set import make_linear_set
from tests.engines.processes import run_group

HERE = "tests.engines.subspace.test_processes"


CASES = {"all": 401, "part": 400, "one image": 1}


def result_of(case: str, folder: Path) -> SubspaceHeterogeneity:
    data = make_linear_set(CASES[case], 0.07)
    settings = SubspaceSettings(zdim=2, curve_features=4, fit_contrast="yes" if case == "part" else "auto")
    before, em.SAMPLES_PER_PASS = em.SAMPLES_PER_PASS, 400 * 60.0 if case == "part" else 3e7
    try:
        return train(data.images, data.base_map, settings, context(folder / f"{case} checkpoints"))
    finally:
        em.SAMPLES_PER_PASS = before


def train_together(folder: str) -> None:
    torch.set_num_threads(1)
    with join() as group:
        for case in CASES:
            result = result_of(case, Path(folder))
            mine = Path(folder) / f"{case} {group.rank}"
            mine.mkdir()
            result.save(mine)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    ends = run_group(f"{HERE}:train_together", 2, str(tmp_path))
    assert [end.returncode for end in ends] == [0, 0], ends
    for case in CASES:
        alone = result_of(case, tmp_path / "alone")
        volumes = np.stack(list(alone.volumes(alone.z[:3])))
        for rank in (0, 1):
            together = load_heterogeneity(tmp_path / f"{case} {rank}")
            assert np.abs(together.z - alone.z).max() < 1e-4 * np.abs(alone.z).max(), case
            got = np.stack(list(together.volumes(alone.z[:3])))
            assert np.abs(got - volumes).max() < 1e-4 * np.abs(volumes).max(), case

"""Maps of all particles moved to each state, by the validate job: files, report, going on, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.jobs.report import report
from cryodrgn_ext.jobs.train import train
from cryodrgn_ext.jobs.validate import validate
from cryodrgn_ext.options.report import ReportSettings
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.workflow.corrected_maps import in_units_of_errors
from cryodrgn_ext.workflow.job_result import MapOutput
from tests.jobs.conftest import BOX, SETTINGS, FinishedProject
from tests.jobs.fake_engine import FakeEngine
from tests.jobs.test_validate import CHECKED, VALIDATE, said

NAMES = ("map", "half1", "half2", "mask")


def test_each_state_has_a_map_of_all_particles_with_its_halves(finished: FinishedProject, engine: FakeEngine) -> None:
    result = validate(replace(VALIDATE, motion_corrected=True), SilentMonitor())
    found = yaml.safe_load((CHECKED.root / "job.yaml").read_text())["results"]["motion_corrected"]
    assert [one["state"] for one in found] == [0, 1, 2]
    assert all(one["resolution_A"] > 0 and one["moving_resolution_A"] > 0 for one in found)
    for number in range(3):
        folder = CHECKED.state(number) / "all_particles"
        assert all(read_map(folder / f"{name}.mrc").box_size == BOX for name in NAMES)
        assert (folder / "fsc.star").exists()
        outputs = [one for one in result.outputs if isinstance(one, MapOutput) and one.path == folder / "map.mrc"]
        assert [len(one.half_maps) for one in outputs] == [2]
    title = "All particles as they would look in each state"
    assert title in CHECKED.report.read_text()
    again = said(replace(VALIDATE, motion_corrected=True, keep_images=True))
    assert "All particles, moved to each set: done before" in again
    CHECKED.report.unlink()
    report(ReportSettings(in_result=CHECKED.root), SilentMonitor())
    assert title in CHECKED.report.read_text()


def test_without_latents_there_is_nothing_to_move_along(project: Path, engine: FakeEngine) -> None:
    train(replace(SETTINGS, zdim=0), SilentMonitor())
    with pytest.raises(InputError, match="--motion_corrected needs latents"):
        validate(replace(VALIDATE, motion_corrected=True), SilentMonitor())
    assert not CHECKED.root.exists()


def test_latents_are_near_in_units_of_their_errors() -> None:
    rng = np.random.default_rng(0)
    z, root = rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=(3, 3))
    covariance = root @ root.T
    found = in_units_of_errors(z, np.broadcast_to(covariance, (5, 3, 3)).astype(np.float32))
    step = z[0] - z[3]
    assert np.square(found[0] - found[3]).sum() == pytest.approx(step @ np.linalg.solve(covariance, step), rel=1e-3)
    assert in_units_of_errors(z, None) is z

"""The whole way with nothing replaced: a refinement, training with the real engine, selection and validation."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.simulate.truth import load_truth
from cryosparc_jobs import select, train, validate
from tests.cryosparc_jobs.imitated_project import Lab, project_with, simulate_refinement

pytestmark = [pytest.mark.filterwarnings("ignore:.*API client:UserWarning"), pytest.mark.slow]
COUNT, BOX, STATES = 1_200, 32, 3


def test_a_refinement_becomes_three_states(tmp_path: Path, impatient: None) -> None:
    simulate_refinement(tmp_path / "simulated", COUNT, box_size=BOX, pixel_size_A=8.0, snr=0.3)
    with project_with(tmp_path / "simulated", tmp_path / "projects") as lab:
        where = {"project": lab.project, "workspace": "W1"}
        settings = {"engine": "subspace", "zdim": 1, "states": STATES, "volumes": 0, "device": "cpu"}
        trained = train(lab.cs, **where, particles=(lab.parent, "particles"), **settings)
        assert lab.state(trained.uid).history == ["building", "running", "completed"]
        check_latents(trained.latents.z[:, 0], tmp_path / "simulated")
        check_states(lab, trained.uid)
        kept = select(lab.cs, **where, result=trained.uid, state=(0, 2))
        assert kept.outputs == ("particles_state_00", "particles_state_02", "particles_rest")
        check_rows(lab, kept.uid, kept.outputs)
        checked = validate(lab.cs, **where, result=trained.uid, random_subsets=12, device="cpu")
        assert len(checked.outputs) == 3 * STATES
        check_states(lab, checked.uid)
        said = lab.state(checked.uid).log_text()
        assert re.search(r"Proven: [23] of 3 states", said), "the motion's ends differ from its mean"


def check_latents(z: np.ndarray, simulated: Path) -> None:
    """The engine found the angle."""
    (truth,) = simulated.rglob("truth.npz")
    assert abs(spearmanr(z, load_truth(truth).coordinates[:, 0]).statistic) > 0.9


def check_rows(lab: Lab, uid: str, names: tuple[str, ...]) -> None:
    """Outputs share out the parent's particles, whose images are the parent's."""
    job = lab.cs.find_job(lab.project, uid)
    parent = lab.particles
    images = zip(parent["blob/path"], parent["blob/idx"], strict=True)
    blob = dict(zip(parent["uid"].tolist(), images, strict=True))
    seen = []
    for name in names:
        rows = job.load_output(name)
        for one, path, index in zip(rows["uid"].tolist(), rows["blob/path"], rows["blob/idx"], strict=True):
            assert blob[one] == (path, index)
        seen += rows["uid"].tolist()
    assert sorted(seen) == sorted(blob)


def check_states(lab: Lab, uid: str) -> None:
    """Every state has particles, a volume with half-maps, and a mask, as files of the job."""
    check_rows(lab, uid, tuple(f"particles_state_{number:02d}" for number in range(STATES)))
    job = lab.cs.find_job(lab.project, uid)
    for number in range(STATES):
        volume = job.load_output(f"volume_state_{number:02d}")
        paths = [lab.directory / volume[f"{slot}/path"][0] for slot in ("map", "map_half_A", "map_half_B")]
        maps = [read_map(path).data for path in paths]
        assert {one.shape for one in maps} == {(BOX,) * 3}
        assert volume["map/psize_A"][0] == pytest.approx(8.0)
        assert np.corrcoef(maps[1].ravel(), maps[2].ravel())[0, 1] > 0.5
        mask = read_map(lab.directory / job.load_output(f"mask_state_{number:02d}")["mask/path"][0]).data
        assert 0 <= mask.min() < mask.max() <= 1

"""Jobs of the registry that nothing here was written for, as External jobs, by their settings and results alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import cryosparc_jobs
from cryodrgn_ext.images.maps import read_map
from tests.cryosparc_jobs.imitated_project import Lab, N, saved_outputs
from tests.cryosparc_master import ParentOutput

pytestmark = pytest.mark.filterwarnings("ignore:.*API client:UserWarning")


def test_consensus_returns_a_volume_with_its_halves(real: Lab) -> None:
    here = {"project": real.project, "workspace": "W1", "particles": (real.parent, "particles")}
    finished = cryosparc_jobs.consensus(real.cs, **here, device="cpu")
    assert real.state(finished.uid).history == ["building", "running", "completed"]
    assert saved_outputs(real, finished.uid) == list(finished.outputs)
    (name,) = [name for name in finished.outputs if name.startswith("volume")]
    volume = real.cs.find_job(real.project, finished.uid).load_output(name)
    halves = [read_map(real.directory / volume[f"{slot}/path"][0]).data for slot in ("map_half_A", "map_half_B")]
    assert np.corrcoef(halves[0].ravel(), halves[1].ravel())[0, 1] > 0.3


def test_components_of_3d_variability_are_imported_as_latents(real: Lab) -> None:
    rows = real.particles.copy()
    z = np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32)
    slots: dict[str, str] = {slot: slot for slot in rows.prefixes()}
    for mode in range(2):
        slot = f"components_mode_{mode}"
        rows.add_fields([f"{slot}/component", f"{slot}/value"], ["u4", "f4"])
        rows[f"{slot}/component"], rows[f"{slot}/value"] = np.full(N, mode, np.uint32), z[:, mode]
        slots[slot] = "components"
    output = ParentOutput("particle", rows, slots, passthrough=("ctf",))
    parent = real.master.instance.add_finished_job(real.project, "var_3D", {"particles": output})
    settings: dict[str, Any] = {"states": 2, "knots": 2, "neighbors": 60, "volumes": 0, "device": "cpu"}
    finished = cryosparc_jobs.import_(
        real.cs, project=real.project, workspace="W1", particles=(parent, "particles"), **settings
    )
    assert real.state(finished.uid).history == ["building", "running", "completed"]
    assert_allclose(finished.latents.z, z)
    assert {"particles_all", "particles_state_00", "volume_state_01", "mask_state_01"} <= set(finished.outputs)

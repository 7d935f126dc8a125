"""Import and consensus as External jobs: latents that another job of the project gave to the particles, and one map."""

from __future__ import annotations

import numpy as np
import pytest
from cryosparc.dataset import Dataset
from numpy.testing import assert_allclose, assert_array_equal

import cryosparc_jobs
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.results.learned_result import read_learned_result
from tests.cryosparc_jobs.imitated_project import Lab, N
from tests.cryosparc_master import ParentOutput

pytestmark = pytest.mark.filterwarnings("ignore:.*API client:UserWarning")
VALUES = np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32)


def variability_job(lab: Lab) -> str:
    """A 3D variability job of the refinement's particles, in an order of its own."""
    particles = Dataset(lab.particles)
    for mode in range(2):
        particles.add_fields([f"components_mode_{mode}/component", f"components_mode_{mode}/value"], ["u4", "f4"])
        particles[f"components_mode_{mode}/component"] = mode
        particles[f"components_mode_{mode}/value"] = VALUES[:, mode]
    particles = particles.take(np.random.default_rng(1).permutation(N))
    slots = {slot: "components" if slot.startswith("components") else slot for slot in particles.prefixes()}
    output = ParentOutput("particle", particles, slots)
    return str(lab.master.instance.add_finished_job(lab.project, "var_3D", {"particles": output}))


def test_components_of_the_project_become_a_result(real: Lab) -> None:
    finished = cryosparc_jobs.import_(
        real.cs, project=real.project, workspace="W1", particles=(variability_job(real), "particles"), states=2,
        knots=5, volumes=2, device="cpu",
    )  # fmt: skip
    assert {"particles_state_00", "particles_state_01", "volume_state_00", "particles_all"} <= set(finished.outputs)
    found = read_learned_result(finished.result.directory)
    place = {uid: row for row, uid in enumerate(real.particles["uid"].tolist())}
    assert_allclose(found.require_latents().z, VALUES[[place[uid] for uid in found.particles.uid.tolist()]])
    everything = real.cs.find_job(real.project, finished.uid).load_output("particles_all")
    assert sorted(everything["uid"].tolist()) == sorted(real.particles["uid"].tolist())
    assert_allclose(everything["components_mode_1/value"],
                    VALUES[[place[uid] for uid in everything["uid"].tolist()], 1])  # fmt: skip


def test_particles_without_latents_need_a_file(real: Lab) -> None:
    with pytest.raises(InputError, match="carries no latents"):
        cryosparc_jobs.import_(real.cs, project=real.project, workspace="W1", particles=(real.parent, "particles"))


def test_consensus(real: Lab) -> None:
    finished = cryosparc_jobs.consensus(
        real.cs, project=real.project, workspace="W1", particles=(real.parent, "particles"), device="cpu"
    )
    assert finished.outputs == ("volume_consensus", "mask_consensus")
    volume = real.cs.find_job(real.project, finished.uid).load_output("volume_consensus")
    assert_array_equal(volume["map/shape"][0], [20, 20, 20])
    assert {"map_half_A", "map_half_B"} <= set(volume.prefixes())


def test_names_that_python_does_not_take() -> None:
    assert {"import_", "consensus", "train"} <= set(dir(cryosparc_jobs))
    assert cryosparc_jobs.import_.__name__ == "import_"

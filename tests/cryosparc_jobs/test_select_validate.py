"""Select and validate as External jobs, after a train job: groups and re-reconstructed states on the parent's uids."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from cryodrgn_ext.analysis.latents import cluster_latents
from cryodrgn_ext.errors import InputError, JobAborted
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.results.latent_tables import read_latent_table, read_state_table
from cryosparc_jobs import job_functions, select, validate
from cryosparc_jobs.errors import MasterError
from cryosparc_jobs.running import FinishedJob
from tests.cryosparc_jobs.imitated_project import BOX, Lab, N, QuickJob, run, saved_outputs
from tests.cryosparc_master import Fault, ParentOutput

pytestmark = pytest.mark.filterwarnings("ignore:.*API client:UserWarning")
QUICK: dict[str, Any] = {"device": "cpu", "random_subsets": 12}


@pytest.fixture
def trained(real: Lab, quick: QuickJob) -> FinishedJob:
    return run(real)


def choose(lab: Lab, result: Any = "J2", **settings: Any) -> FinishedJob:
    return select(lab.cs, project=lab.project, workspace="W1", result=result, **settings)


def check(lab: Lab, result: Any = "J2", **settings: Any) -> FinishedJob:
    return validate(lab.cs, project=lab.project, workspace="W1", result=result, **{**QUICK, **settings})


def rows_of(lab: Lab, job: FinishedJob, name: str) -> Any:
    return lab.cs.find_job(lab.project, job.uid).load_output(name)


def label_of(job: FinishedJob) -> np.ndarray:
    return read_state_table(job.result.directory / "states.npz").label


def test_states_are_selected_into_one_output_each(real: Lab, trained: FinishedJob) -> None:
    finished = choose(real, state=(0, 2))
    assert finished.outputs == ("particles_state_00", "particles_state_02", "particles_rest")
    for name, number in zip(finished.outputs, (0, 2, 1), strict=True):
        rows, chosen = rows_of(real, finished, name), real.particles.mask(label_of(trained) == number)
        for column in chosen.fields():
            assert_array_equal(np.asarray(rows[column]), np.asarray(chosen[column]), err_msg=column)
        assert "components_mode_1" in rows.prefixes(), "the latents are passed on from the train job"
    state = real.state(finished.uid)
    assert state.history == ["building", "running", "completed"]
    assert state.model.spec.inputs.root["particles"].connections[0].output == "particles_all"
    assert state.model.ui_tile_images
    assert all(output.image for output in state.model.spec.outputs.root.values())
    assert "state = [0, 2]" in state.log_text()
    assert "by group (0: state_00, 1: state_02, 2: rest)" in state.log_text()


def test_clusters_ranges_and_indices(real: Lab, trained: FinishedJob, tmp_path: Path) -> None:
    z, uid = read_latent_table(trained.result.directory / "latents.npz").z, real.particles["uid"]
    clusters = cluster_latents(z, 4, seed=0).label
    low = float(min(np.median(z[clusters == number, 0]) for number in (1, 3)))
    finished = choose(real, clusters=4, cluster=(3, 1), z_range=(f"z1:{low}:",))
    assert finished.outputs == ("particles_cluster_03", "particles_cluster_01", "particles_rest")
    for number in (1, 3):
        expected = uid[(clusters == number) & (z[:, 0] >= low)]
        assert rows_of(real, finished, f"particles_cluster_{number:02d}")["uid"].tolist() == expected.tolist()
    np.savetxt(tmp_path / "rows.txt", np.arange(30), fmt="%d")
    finished = choose(real, indices=tmp_path / "rows.txt", invert=True)
    assert rows_of(real, finished, "particles_selected")["uid"].tolist() == uid[30:].tolist()
    assert rows_of(real, finished, "particles_rest")["uid"].tolist() == uid[:30].tolist()


def test_result_directory_and_other_particles_of_the_project(real: Lab, trained: FinishedJob, tmp_path: Path) -> None:
    by_directory = choose(real, trained.result.directory, state=(1,))
    assert real.state(by_directory.uid).model.spec.inputs.root["particles"].connections[0].job_uid == "J2"
    # A later refinement of the same particles has them in another order, and more of them.
    order = np.random.default_rng(0).permutation(N)
    later = ParentOutput("particle", real.particles.take(order), {slot: slot for slot in real.particles.prefixes()})
    job = real.master.instance.add_finished_job(real.project, "nonuniform_refine_new", {"particles": later})
    finished = choose(real, trained.result.directory, particles=(job, "particles"), state=(1,))
    rows = rows_of(real, finished, "particles_state_01")
    expected = real.particles.mask(label_of(trained) == 1)
    assert rows["uid"].tolist() == expected["uid"].tolist()
    assert_array_equal(rows["alignments3D/pose"], expected["alignments3D/pose"])
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(trained.result.directory, elsewhere)
    (elsewhere / "cryosparc_job.json").unlink()
    with pytest.raises(InputError, match=r"was not made by a job of project P1: say which of its particles"):
        choose(real, elsewhere, state=(1,))


@pytest.mark.parametrize(
    ("settings", "kind", "sentence"),
    [
        ({}, InputError, "nothing to select by"),
        ({"state": (9,)}, InputError, "there is no state 9"),
        ({"state": (0,), "z_norm_max": 0.0}, InputError, "the combination of conditions selects no particles"),
        ({"cluster": (1,)}, InputError, "--cluster needs --clusters"),
        ({"in_parts": "x"}, InputError, "in_parts cannot be given: what was learned comes from result="),
        ({"states": (1,)}, InputError, "state"),
        ({"result": "J1", "state": (0,)}, MasterError, r"record of job P1-J1 \(is it a train or abinit job"),
        ({"result": "J99", "state": (0,)}, MasterError, "J99"),
        ({"result": "nowhere", "state": (0,)}, InputError, "is not the result directory of a train or abinit job"),
        ({"result": 4, "state": (0,)}, InputError, "result must be a job of ours"),
    ],
)
def test_wrong_selections_are_refused_before_a_job_is_made(
    real: Lab, trained: FinishedJob, settings: dict[str, Any], kind: type[Exception], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        choose(real, **settings)
    assert real.master.names().count("jobs.create") == 1


def test_particles_of_another_project_fail_the_job(real: Lab, trained: FinishedJob) -> None:
    others = real.particles.copy()
    others["uid"] = others["uid"] + np.uint64(1)
    output = ParentOutput("particle", others, {slot: slot for slot in others.prefixes()})
    job = real.master.instance.add_finished_job(real.project, "homo_refine_new", {"particles": output})
    with pytest.raises(InputError, match="the result is of other particles"):
        choose(real, particles=(job, "particles"), state=(0,))
    assert real.state("J4").model.status == "failed"
    assert saved_outputs(real, "J4") == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault("jobs.load_input", "error", times=-1),
        Fault("jobs.add_external_output", "drop", times=-1, skip=1),
        Fault("jobs.save_output", "error", times=-1),
        Fault("jobs.save_output", "truncate", times=-1),
    ],
    ids=lambda fault: f"{fault.operation}-{fault.kind}",
)
def test_fault_that_stays_fails_the_selection(real: Lab, trained: FinishedJob, fault: Fault) -> None:
    real.master.faults.add(fault)
    with pytest.raises(MasterError) as caught:
        choose(real, state=(0, 1))
    state = real.state("J3")
    assert state.history == ["building", "running", "failed"]
    assert str(caught.value) in state.log_text()
    assert saved_outputs(real, "J3") == []


def test_validated_states_return_with_full_size_maps(real: Lab, trained: FinishedJob) -> None:
    finished = check(real, state=(0, 1))
    assert finished.outputs == tuple(f"{kind}_state_0{n}" for n in (0, 1) for kind in ("particles", "volume", "mask"))
    for number in (0, 1):
        expected = real.particles["uid"][label_of(trained) == number]
        assert rows_of(real, finished, f"particles_state_{number:02d}")["uid"].tolist() == expected.tolist()
        volume = rows_of(real, finished, f"volume_state_{number:02d}")
        for slot, name in (("map", "map.mrc"), ("map_half_A", "half1.mrc"), ("map_half_B", "half2.mrc")):
            written = finished.result.directory / f"states/state{number:02d}" / name
            assert (real.directory / volume[f"{slot}/path"][0]).read_bytes() == written.read_bytes()
            assert volume[f"{slot}/shape"].tolist() == [[BOX] * 3]
            assert volume[f"{slot}/psize_A"][0] == pytest.approx(read_map(written).pixel_size_A, rel=1e-6)
    masks = [rows_of(real, finished, f"mask_state_0{number}")["mask/path"][0] for number in (0, 1)]
    assert (real.directory / masks[0]).read_bytes() != (real.directory / masks[1]).read_bytes()
    state = real.state(finished.uid)
    assert state.history == ["building", "running", "completed"]
    assert "random subsets" in state.log_text()
    assert [event.text for event in state.events if getattr(event, "imgfiles", None)] == [
        "FSC between half-maps, corrected for the mask", "Central slices of the maps",
    ]  # fmt: skip
    assert all(output.image for output in state.model.spec.outputs.root.values())


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_validation_goes_on_where_it_was_stopped(real: Lab, trained: FinishedJob) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_functions, "publish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            check(real, state=(0,), directory="checked")
    assert real.state("J3").history == ["building", "running", "failed"]
    finished = check(real, state=(0,), directory="checked")
    assert finished.uid == "J4"
    assert real.state("J4").log_text().count("done before") == 2
    assert len(saved_outputs(real, "J4")) == 3


def test_job_killed_while_validating_gets_no_outputs(real: Lab, trained: FinishedJob) -> None:
    real.master.faults.add(Fault("projects.upload_file", "slow", seconds=1.0))
    with pytest.MonkeyPatch.context() as patch:
        original = real.master.instance.store_file

        def kill_and_store(*arguments: Any) -> str:
            if real.state("J3").model.status == "running":
                real.master.instance.kill(real.project, "J3")
            return original(*arguments)

        patch.setattr(real.master.instance, "store_file", kill_and_store)
        with pytest.raises(JobAborted):
            check(real, state=(0,))
    assert real.state("J3").history == ["building", "running", "killed"]
    assert saved_outputs(real, "J3") == []


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"directory": "P1_J2"}, "holds the results of a train job"),
        ({"state": (9,)}, "has no state 9"),
        ({"box": 1}, "box"),
        ({"o": "x"}, "o cannot be given"),
        ({"mask": ("J1", "particles")}, "for mask one of type mask"),
    ],
)
def test_wrong_validations_are_refused_before_a_job_is_made(
    real: Lab, trained: FinishedJob, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        check(real, **settings)
    assert real.master.names().count("jobs.create") == 1


def test_result_that_has_gone_is_named(real: Lab, trained: FinishedJob) -> None:
    trained.result.directory.rename("moved")
    with pytest.raises(InputError, match=r"The result directory of P1-J2, .*P1_J2, is not on this machine"):
        choose(real, state=(0,))
    assert choose(real, "moved", state=(0,)).outputs == ("particles_state_00", "particles_rest")

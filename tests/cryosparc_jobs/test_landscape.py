"""Landscape as an External job, after a train job: clusters of volumes on the parent's uids, volume components."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from cryodrgn_ext.errors import InputError, JobAborted
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.results.latent_tables import read_latent_table, read_state_table
from cryosparc_jobs import landscape, select
from cryosparc_jobs.errors import MasterError
from cryosparc_jobs.running import FinishedJob
from tests.analysis.toy_engines import LinearToy
from tests.cryosparc_jobs.imitated_project import BOX, Lab, N, QuickJob, run, saved_outputs
from tests.cryosparc_master import Fault
from tests.jobs.fake_engine import MODULE, FakeEngine

pytestmark = pytest.mark.filterwarnings("ignore:.*API client:UserWarning")
QUICK: dict[str, Any] = {"sketch": 30, "clusters": 3, "min_particles": 1, "set_apart": False, "bootstrap": 2}
OUTPUTS = (
    "particles_state_00", "volume_state_00", "particles_state_01", "volume_state_01", "particles_state_02",
    "volume_state_02", "mask_compared", "particles_all",
)  # fmt: skip


@pytest.fixture
def trained(real: Lab, quick: QuickJob, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> FinishedJob:
    """A train job with a model whose volumes are sums of two maps; landscapes without report."""
    finished = run(real)
    z = read_latent_table(finished.result.directory / "latents.npz").z
    model = LinearToy(z, BOX, read_map(finished.result.directory / "consensus/map.mrc").pixel_size_A)
    monkeypatch.setattr(sys.modules[MODULE], "load", lambda _: model)
    monkeypatch.setattr("cryodrgn_ext.jobs.landscape.write_landscape_reports", lambda *_: None)
    return finished


def look(lab: Lab, result: Any = "J2", **settings: Any) -> FinishedJob:
    return landscape(lab.cs, project=lab.project, workspace="W1", result=result, **{**QUICK, **settings})


def test_clusters_return_on_the_parents_particles(real: Lab, trained: FinishedJob) -> None:
    finished = look(real)
    assert finished.outputs == OUTPUTS
    folder, job = finished.result.directory, real.cs.find_job(real.project, finished.uid)
    label = read_state_table(folder / "states.npz").label
    for number in range(3):
        rows, chosen = job.load_output(f"particles_state_{number:02d}"), real.particles.mask(label == number)
        for column in chosen.fields():
            assert_array_equal(np.asarray(rows[column]), np.asarray(chosen[column]), err_msg=column)
        volume = job.load_output(f"volume_state_{number:02d}")
        written = folder / f"states/state{number:02d}/map.mrc"
        assert (real.directory / volume["map/path"][0]).read_bytes() == written.read_bytes()
        assert volume["map/shape"].tolist() == [[BOX] * 3]
        # Particles that came as a .cs are returned as one on disk, too.
        assert read_particles(written.with_name("particles.cs")).uid.tolist() == chosen["uid"].tolist()
        assert written.with_name("particles.csg").exists()
    assert read_particles(folder / "particles.cs").n == N
    assert (folder / "particles.csg").exists()
    mask = job.load_output("mask_compared")["mask/path"][0]
    assert (real.directory / mask).read_bytes() == (folder / "mask.mrc").read_bytes()
    rows = job.load_output("particles_all")
    assert rows["uid"].tolist() == real.particles["uid"].tolist()
    with np.load(folder / "landscape.npz") as arrays:
        for mode in range(2):
            assert_array_equal(rows[f"components_mode_{mode}/value"], arrays["v"][:, mode])
    state = real.state(finished.uid)
    assert state.history == ["building", "running", "completed"]
    assert state.model.spec.inputs.root["particles"].connections[0].output == "particles_all"
    assert state.model.ui_tile_images
    assert all(output.image for output in state.model.spec.outputs.root.values())
    shown = [event.text for event in state.events if getattr(event, "imgfiles", None)]
    assert shown[0] == "Particles over volume components, by state"
    assert shown[-1] == "Central slices of the average maps"
    assert any(text.startswith("Density of the particles") for text in shown)
    assert "clusters = 3" in state.log_text()
    # Its clusters are states for the other jobs.
    chosen = select(real.cs, project=real.project, workspace="W1", result=finished.uid, state=(1,))
    assert chosen.outputs == ("particles_state_01", "particles_rest")


def test_selecting_from_a_landscape_of_some_particles(real: Lab, trained: FinishedJob, tmp_path: Path) -> None:
    """The landscape's own output has the particles that it looked at; the project's have all."""
    np.save(tmp_path / "some.npy", np.arange(0, N, 2))
    finished = look(real, indices=tmp_path / "some.npy")
    label = read_state_table(finished.result.directory / "states.npz").label
    uid = np.asarray(real.particles["uid"])
    for particles, others in ((None, (label >= 0) & (label != 1)), (("J1", "particles"), label != 1)):
        chosen = select(
            real.cs, project=real.project, workspace="W1", result=finished.uid, particles=particles, state=(1,)
        )  # fmt: skip
        job = real.cs.find_job(real.project, chosen.uid)
        assert_array_equal(job.load_output("particles_state_01")["uid"], uid[label == 1])
        assert_array_equal(job.load_output("particles_rest")["uid"], uid[others])
    np.savetxt(tmp_path / "unseen.txt", [1, 3], fmt="%d")
    with pytest.raises(InputError, match="is among those of the job: name the particles"):
        select(real.cs, project=real.project, workspace="W1", result=finished.uid, indices=tmp_path / "unseen.txt")


def test_mask_of_a_job_and_no_latents_among_volume_components(real: Lab, trained: FinishedJob) -> None:
    first = look(real)
    finished = look(real, components=1, mask=(first.uid, "mask_compared"))
    assert real.state(finished.uid).model.spec.inputs.root["mask"].connections[0].job_uid == first.uid
    masks = [job.result.directory / "mask.mrc" for job in (first, finished)]
    assert_array_equal(read_map(masks[0]).data, read_map(masks[1]).data)
    rows = real.cs.find_job(real.project, finished.uid).load_output("particles_all")
    assert rows["components_mode_0/value"].std() > 0
    assert not rows["components_mode_1/value"].any()
    assert "from components_mode_1 on are zero" in real.state(finished.uid).log_text()


def test_fault_among_the_saves_fails_the_job_and_names_the_outputs(real: Lab, trained: FinishedJob) -> None:
    real.master.faults.add(Fault("jobs.save_output", "error", times=-1, skip=3))
    with pytest.raises(MasterError) as caught:
        look(real, directory="here")
    expected = (
        f"Complete are {', '.join(OUTPUTS[:3])}; do not use {OUTPUTS[3]}; {', '.join(OUTPUTS[4:])} were not begun."
    )
    assert expected in str(caught.value)
    state = real.state("J3")
    assert state.history == ["building", "running", "failed"]
    assert expected in state.log_text()
    real.master.faults.clear()
    again = look(real, directory="here")
    assert saved_outputs(real, again.uid) == list(OUTPUTS)
    assert "done before" in real.state(again.uid).log_text()


def test_job_killed_while_it_works_gets_no_outputs(
    real: Lab, trained: FinishedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = real.master.instance.store_file

    def kill_and_store(*arguments: Any) -> str:
        if real.state("J3").model.status == "running":
            real.master.instance.kill(real.project, "J3")
        return store(*arguments)

    monkeypatch.setattr(real.master.instance, "store_file", kill_and_store)
    with pytest.raises(JobAborted):
        look(real)
    assert real.state("J3").history == ["building", "running", "killed"]
    assert saved_outputs(real, "J3") == []


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"directory": "P1_J2"}, "holds the results of a train job"),
        ({"clusters": 0}, "clusters"),
        ({"in_parts": "x"}, "in_parts cannot be given"),
        ({"mask": ("J1", "particles")}, "for mask one of type mask"),
        ({"mask": ("J1", "particles"), "in_mask": "x.mrc"}, "in_mask cannot be given"),
    ],
)
def test_wrong_landscapes_are_refused_before_a_job_is_made(
    real: Lab, trained: FinishedJob, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        look(real, **settings)
    assert real.master.names().count("jobs.create") == 1

"""Abinit as an External job: particles without orientations get alignments3D of ours, with a volume and a mask."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from cryodrgn_ext.analysis.latents import cluster_latents
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.pose.metrics import align_poses
from cryodrgn_ext.results.latent_tables import read_latent_table, read_state_table
from cryosparc_jobs import abinit, landscape, select, validate
from cryosparc_jobs.running import FinishedJob
from tests.analysis.toy_engines import LinearToy
from tests.cryosparc_jobs.imitated_project import BOX, Lab, N, saved_outputs
from tests.cryosparc_master import ParentOutput
from tests.jobs import fake_poses
from tests.jobs.fake_engine import MODULE, install
from tests.jobs.fake_poses import FakeSearch

pytestmark = pytest.mark.filterwarnings("ignore:.*API client:UserWarning")


@pytest.fixture
def extracted(real: Lab) -> str:
    """A job that left the same particles, in another order, without alignments."""
    order = np.random.default_rng(0).permutation(N)
    rows = real.particles.take(order)
    rows = rows.filter_prefixes(["blob", "ctf"])
    output = ParentOutput("particle", rows, {"blob": "blob", "ctf": "ctf"}, passthrough=())
    uid: str = real.master.instance.add_finished_job(real.project, "extract_micrographs_multi", {"particles": output})
    return uid


@pytest.fixture
def truth(real: Lab, refinement: Path) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    particles = read_particles(refinement / "particles.cs", project_dir=refinement)
    return {int(uid): pose for uid, *pose in zip(particles.uid, particles.rotation, particles.shift_A, strict=True)}  # type: ignore[misc]


@pytest.fixture
def search(real: Lab, extracted: str, truth: dict[int, Any], monkeypatch: pytest.MonkeyPatch) -> FakeSearch:
    rows = real.cs.find_job(real.project, extracted).load_output("particles")
    poses = [truth[int(uid)] for uid in rows["uid"]]
    rotation, shift_A = (np.array([pose[k] for pose in poses]) for k in (0, 1))
    return fake_poses.install(monkeypatch, rotation, shift_A)


def find(lab: Lab, parent: str, **settings: Any) -> FinishedJob:
    given = {"particles": (parent, "particles"), "device": "cpu", **settings}
    return abinit(lab.cs, project=lab.project, workspace="W1", **given)


def test_particles_get_alignments_and_the_map_returns(real: Lab, extracted: str, search: FakeSearch) -> None:
    finished = find(real, extracted)
    assert finished.outputs == ("particles", "volume", "mask")
    job = real.cs.find_job(real.project, finished.uid)
    rows, parent = job.load_output("particles"), real.cs.find_job(real.project, extracted).load_output("particles")
    for column in ("uid", "blob/path", "blob/idx", "ctf/df1_A"):
        assert_array_equal(np.asarray(rows[column]), np.asarray(parent[column]))
    returned = read_particles(finished.result.directory / "particles.cs")
    assert_allclose(rows["alignments3D/psize_A"], 12.0)
    ours = align_poses(Poses.of(returned.rotation, returned.shift_A), Poses.of(search.rotation, search.shift_A))
    assert ours.errors.degrees.max() < 1e-3
    from cryodrgn_ext.metadata.poses import rotation_from_pose

    assert_allclose(rotation_from_pose(rows["alignments3D/pose"]), returned.rotation, atol=1e-5)
    assert_allclose(-np.asarray(rows["alignments3D/shift"]) * 12.0, returned.shift_A, atol=1e-3)
    assert_array_equal(np.asarray(rows["alignments3D/split"]) + 1, returned.half_set)
    volume = job.load_output("volume")
    for slot, name in (("map", "map"), ("map_half_A", "half1"), ("map_half_B", "half2")):
        written = finished.result.directory / f"{name}.mrc"
        assert (real.directory / volume[f"{slot}/path"][0]).read_bytes() == written.read_bytes()
    assert volume["map/shape"].tolist() == [[BOX] * 3]
    state = real.state(finished.uid)
    assert state.history == ["building", "running", "completed"]
    assert state.model.ui_tile_images
    shown = [event.text for event in state.events if getattr(event, "imgfiles", None)]
    assert "Directions of view" in shown
    assert "starts = 3" in state.log_text()
    assert saved_outputs(real, finished.uid) == ["particles", "volume", "mask"]


def test_orientations_of_a_refinement_are_replaced(real: Lab, truth: dict[int, Any], extracted: str, search: FakeSearch,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    poses = [truth[int(uid)] for uid in real.particles["uid"]]
    fake_poses.install(monkeypatch, *(np.array([pose[k] for pose in poses]) for k in (0, 1)))
    finished = find(real, real.parent)
    rows = real.cs.find_job(real.project, finished.uid).load_output("particles")
    assert rows["uid"].tolist() == real.particles["uid"].tolist()
    assert np.abs(np.asarray(rows["alignments3D/pose"]) - np.asarray(real.particles["alignments3D/pose"])).max() > 0.5


def test_shifts_of_2d_classes_are_what_the_search_begins_from(
    real: Lab, truth: dict[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = real.particles.filter_prefixes(["blob", "ctf", "alignments3D"], copy=True)
    poses = [truth[int(uid)] for uid in rows["uid"]]
    fake = fake_poses.install(monkeypatch, *(np.array([pose[k] for pose in poses]) for k in (0, 1)))
    rows.add_fields(["alignments2D/shift", "alignments2D/psize_A"], ["2f4", "f4"])
    rows["alignments2D/shift"], rows["alignments2D/psize_A"] = 2 * np.asarray(rows["alignments3D/shift"]), 6.0
    rows = rows.filter_prefixes(["blob", "ctf", "alignments2D"])
    output = ParentOutput("particle", rows, {slot: slot for slot in ("blob", "ctf", "alignments2D")}, passthrough=())
    uid = real.master.instance.add_finished_job(real.project, "select_2D", {"particles": output})
    finished = find(real, uid)
    slots = [slot.name for slot in real.state(finished.uid).model.spec.inputs.root["particles"].slots]
    assert "alignments2D" in slots
    assert "origins in" in real.state(finished.uid).log_text()
    assert "alignments2D/shift; root mean square" in real.state(finished.uid).log_text()
    returned = read_particles(finished.result.directory / "particles.cs")
    assert (
        align_poses(
            Poses.of(returned.rotation, returned.shift_A), Poses.of(fake.rotation, fake.shift_A)
        ).errors.shift_px.max()
        < 1e-3
    )
    ignored = find(real, uid, use_origins="no")
    assert "Ignored, as --use_origins says" in real.state(ignored.uid).log_text()


@pytest.fixture
def heterogeneous(real: Lab, extracted: str, search: FakeSearch, monkeypatch: pytest.MonkeyPatch) -> FinishedJob:
    """An abinit job with latents, whose model is a sum of two maps; what follows writes no reports."""
    install(monkeypatch)
    monkeypatch.setattr("cryodrgn_ext.jobs.landscape.write_landscape_reports", lambda *_: None)
    finished = find(real, extracted, zdim=2, volumes=2)
    z = read_latent_table(finished.result.directory / "latents.npz").z
    monkeypatch.setattr(sys.modules[MODULE], "load", lambda _: LinearToy(z, BOX, 12.0))
    return finished


def test_select_and_landscape_go_on_from_its_latents(real: Lab, heterogeneous: FinishedJob) -> None:
    """Their particles are the parent's, with the alignments3D that abinit found."""
    here = {"project": real.project, "workspace": "W1", "result": heterogeneous.uid}
    posed = real.cs.find_job(real.project, heterogeneous.uid).load_output("particles")
    folder = heterogeneous.result.directory
    chosen = select(real.cs, **here, clusters=2, cluster=(1,))
    label = cluster_latents(read_latent_table(folder / "latents.npz").z, 2, seed=0).label
    rows = real.cs.find_job(real.project, chosen.uid).load_output("particles_cluster_01")
    assert rows["uid"].tolist() == posed["uid"][label == 1].tolist()
    for column in ("blob/path", "ctf/df1_A", "alignments3D/pose", "alignments3D/shift", "components_mode_1/value"):
        assert_array_equal(np.asarray(rows[column]), np.asarray(posed[column])[label == 1], err_msg=column)
    clustered = landscape(real.cs, **here, sketch=30, clusters=2, min_particles=1, set_apart=False, bootstrap=2)
    label = read_state_table(clustered.result.directory / "states.npz").label
    job = real.cs.find_job(real.project, clustered.uid)
    rows = job.load_output("particles_state_00")
    assert rows["uid"].tolist() == posed["uid"][label == 0].tolist()
    assert_array_equal(rows["alignments3D/pose"], np.asarray(posed["alignments3D/pose"])[label == 0])
    assert len(job.load_output("particles_all")) == N


def test_validate_reconstructs_with_its_poses(real: Lab, heterogeneous: FinishedJob) -> None:
    checked = validate(real.cs, project=real.project, workspace="W1", result=heterogeneous.uid, random_subsets=12,
                       device="cpu")  # fmt: skip
    assert checked.outputs == ("particles_state_00", "volume_state_00", "mask_state_00")
    maps = [read_map(job.result.directory / name).data
            for job, name in ((checked, "states/state00/map.mrc"), (heterogeneous, "map.mrc"))]  # fmt: skip
    assert np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] > 0.98


def test_a_result_without_latents_says_what_to_do(real: Lab, extracted: str, search: FakeSearch) -> None:
    finished = find(real, extracted)
    with pytest.raises(InputError, match="has no latents: it is an abinit job without --zdim; train on"):
        landscape(real.cs, project=real.project, workspace="W1", result=finished.uid)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"particles": ("J9", "particles")}, "J9"),
        ({"starts": 0}, "starts"),
        ({"in_parts": "x"}, "in_parts cannot be given"),
        ({"particles_format": "star"}, "particles_format cannot be given"),
        ({"volume": ("J1", "particles")}, "for volume one of type volume"),
        ({"volume": ("J1", "particles"), "in_3dref": "x.mrc"}, "in_3dref cannot be given"),
    ],
)
def test_wrong_jobs_are_refused_before_they_are_made(
    real: Lab, extracted: str, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Exception, match=sentence) as caught:
        find(real, extracted, **settings)
    assert isinstance(caught.value, InputError) or "J9" in sentence
    assert real.master.names().count("jobs.create") == 0

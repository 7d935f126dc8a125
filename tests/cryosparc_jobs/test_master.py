"""The imitation of the master does what the unpatched client expects, and commits the faults that it is told to."""

from __future__ import annotations

import time
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import matplotlib.pyplot as plt
import numpy as np
import pytest
from cryosparc.dataset import Dataset
from cryosparc.errors import APIError
from cryosparc.tools import CryoSPARC

from tests.cryosparc_jobs.imitated_project import Lab, refined_particles
from tests.cryosparc_master import EMAIL, PASSWORD, Fault, Master

RETRIED = pytest.mark.filterwarnings("ignore:.*API client:UserWarning")


def external_job(lab: Lab) -> Any:
    job = lab.cs.create_external_job(lab.project, "W1", title="Test")
    job.connect("particles", lab.parent, "particles", slots=["blob", "ctf", "alignments3D", "?location"])
    return job


def same(one: Dataset, other: Dataset, columns: list[str]) -> bool:
    return all(np.array_equal(np.asarray(one[column]), np.asarray(other[column])) for column in ["uid", *columns])


def test_connection_goes_in_the_order_of_the_contract(lab: Lab) -> None:
    assert lab.master.names()[:3] == ["login", "users.me", "config.get_version"]
    assert lab.cs.test_connection()
    assert lab.cs.find_project(lab.project).model.uid == lab.project


def test_wrong_password_and_missing_token_are_refused(lab: Lab) -> None:
    with pytest.raises(RuntimeError, match="incorrect username or password"):
        CryoSPARC(base_url=lab.master.url, host=None, base_port=None, email=EMAIL, password="wrong")
    answer = httpx.get(f"{lab.master.url}/api/cmd/projects/{lab.project}")
    assert answer.status_code == 401


def test_input_is_the_parents_output_with_its_passthrough(lab: Lab) -> None:
    job = external_job(lab)
    loaded = job.load_input("particles")
    assert same(loaded, lab.particles, lab.particles.fields(exclude_uid=True))
    assert set(job.load_input("particles", ["location"]).prefixes()) == {"location"}
    assert lab.state(job.uid).model.parents == [lab.parent]
    assert lab.state(lab.parent).model.children == [job.uid]


def test_output_is_saved_on_disk_with_the_rest_passed_through(lab: Lab) -> None:
    job = external_job(lab)
    job.add_output("particle", "state_0", slots=["alignments3D"], passthrough="particles")
    job.start("running")
    chosen = lab.particles.take([3, 5, 11])
    rows = job.alloc_output("state_0", chosen)
    assert set(rows.fields()) == {"uid", *(name for name in chosen.fields() if name.startswith("alignments3D/"))}
    rows["alignments3D/shift"] = np.ones((3, 2), np.float32)
    job.save_output("state_0", rows)
    job.stop()
    assert lab.state(job.uid).history == ["building", "running", "completed"]
    assert lab.state(job.uid).model.spec.outputs.root["state_0"].num_items == 3
    on_disk = Dataset.load(lab.directory / job.uid / f"{job.uid}_passthrough_state_0.cs")
    assert same(on_disk, chosen, ["blob/path", "ctf/df1_A", "location/center_x_frac"])
    back = lab.cs.find_job(lab.project, job.uid).load_output("state_0")
    assert back["alignments3D/shift"].tolist() == [[1, 1]] * 3
    assert same(back, chosen, ["blob/path", "ctf/df1_A", "location/micrograph_path"])


def test_what_the_rules_forbid_is_refused(lab: Lab) -> None:
    job = external_job(lab)
    job.add_output("particle", "state_0", slots=["alignments3D"], passthrough="particles")
    rows = job.alloc_output("state_0", lab.particles)
    with pytest.raises(APIError, match="is building, not running or waiting"):
        job.save_output("state_0", rows)
    job.start("running")
    with pytest.raises(APIError, match="additional columns"):
        job.save_output("state_0", rows.copy().add_fields([("blob/idx", "u4")]))
    with pytest.raises(APIError, match="is not in input"):
        job.save_output("state_0", job.alloc_output("state_0", np.array([5, 6], np.uint64)))
    job.add_output("volume", "map", slots=["map"])
    volume = job.alloc_output("map", 1)
    volume["map/path"] = [f"{job.uid}/nowhere.mrc"]
    with pytest.raises(APIError, match="does not exist"):
        job.save_output("map", volume)
    with pytest.raises(APIError, match="is not an External job"):
        lab.cs.api.jobs.mark_failed(lab.project, lab.parent, error="no")


def test_job_with_a_missing_required_slot_cannot_start(lab: Lab) -> None:
    job = lab.cs.create_external_job(lab.project, "W1")
    job.connect("particles", lab.parent, "particles", slots=["blob", "components_mode_0"])
    with pytest.raises(APIError, match="build errors"):
        job.start("running")


def test_files_events_and_images_arrive(lab: Lab, tmp_path: Path) -> None:
    job = external_job(lab)
    job.add_output("volume", "map", slots=["map"])
    job.start("running")
    content = np.random.default_rng(1).bytes(20_000_000)
    job.mkdir("volumes")
    job.upload("volumes/map.mrc", content)
    assert (lab.directory / job.uid / "volumes" / "map.mrc").read_bytes() == content
    with pytest.raises(APIError, match="already exists"):
        job.upload("volumes/map.mrc", b"other")
    assert "volumes/map.mrc" in job.list_files(recursive=True)
    target = BytesIO()
    job.download_file("volumes/map.mrc", target)
    assert target.getvalue() == content
    job.log("one", name="progress")
    job.log("two", name="progress")
    job.log_checkpoint()
    figure = plt.figure()
    job.log_plot(figure, "a plot", formats=["png"])
    job.set_output_image("map", figure)
    job.set_tile_image(figure)
    plt.close(figure)
    state = lab.state(job.uid)
    assert state.log_text().splitlines() == ["two", "a plot"]
    assert len(job.list_assets()) == 3
    fileid = state.model.spec.outputs.root["map"].image
    assert lab.master.instance.assets[fileid][1].startswith(b"\x89PNG")


@RETRIED
def test_upload_dropped_half_way_arrives_empty_and_reports_success(lab: Lab) -> None:
    # The trap itself, in the client as it is: what our adapter has to notice.
    job = external_job(lab)
    lab.master.faults.add(Fault("projects.upload_file", "drop"))
    job.upload("map.mrc", b"x" * 100_000)
    assert (lab.directory / job.uid / "map.mrc").read_bytes() == b""


@RETRIED
def test_run_block_of_the_client_ends_as_completed_when_it_should_not(lab: Lab) -> None:
    for interrupt in (KeyboardInterrupt, SystemExit):
        job = external_job(lab)
        with pytest.raises(interrupt), job.run():
            raise interrupt
        assert lab.state(job.uid).model.status == "completed"
    job = external_job(lab)
    with job.run():
        lab.master.instance.kill(lab.project, job.uid)
    assert lab.state(job.uid).history == ["building", "running", "killed", "completed"]
    job = external_job(lab)
    with pytest.raises(httpx.InvalidURL), job.run():
        raise ValueError("x" * 70_000)
    assert lab.state(job.uid).model.status == "running"


@RETRIED
def test_faults_are_committed_as_often_as_told(lab: Lab) -> None:
    job = external_job(lab)
    lab.master.faults.add(Fault("jobs.get_status", "error", times=2, skip=1))
    status = lab.cs.api.jobs.get_status
    assert status(lab.project, job.uid) == "building"
    for _ in range(2):
        with pytest.raises(APIError, match="code 500"):
            status(lab.project, job.uid)
    assert status(lab.project, job.uid) == "building"
    lab.master.faults.add(Fault("jobs.get_status", "slow", seconds=0.2))
    begin = time.monotonic()
    status(lab.project, job.uid)
    assert time.monotonic() - begin >= 0.2
    lab.master.faults.add(Fault("jobs.create", "lose_answer"))
    before = len(lab.master.instance.project(lab.project).jobs)
    lab.cs.create_external_job(lab.project, "W1")
    assert len(lab.master.instance.project(lab.project).jobs) == before + 2, "the client repeats what was done"


def test_read_only_project_takes_nothing(lab: Lab) -> None:
    job = external_job(lab)
    lab.master.instance.project(lab.project).read_only = True
    with pytest.raises(APIError, match="Read-only file system"):
        job.upload("map.mrc", b"content")
    assert not (lab.directory / job.uid / "map.mrc").exists()


def test_two_masters_do_not_share_projects(lab: Lab, tmp_path: Path) -> None:
    with Master(tmp_path / "other") as other:
        cs = CryoSPARC(base_url=other.url, host=None, base_port=None, email=EMAIL, password=PASSWORD)
        with pytest.raises(APIError, match="code 404"):
            cs.find_job(lab.project, lab.parent)
        cs.api._client.close()


def test_random_particles_are_reproducible() -> None:
    assert same(refined_particles(4), refined_particles(4), ["alignments3D/pose"])

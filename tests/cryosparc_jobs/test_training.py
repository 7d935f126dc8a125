"""From a refinement in the imitated project to states in it: the unpatched client, the real job, a quick engine."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryosparc.dataset import Dataset
from numpy.testing import assert_array_equal

from cryodrgn_ext.errors import InputError, JobAborted
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.jobs.convert import convert
from cryodrgn_ext.metadata.image_checks import check_images
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.options.convert import ConvertSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.results.latent_tables import read_state_table
from cryosparc_jobs import train
from cryosparc_jobs.errors import MasterError
from cryosparc_jobs.external_job import ExternalJob
from cryosparc_jobs.fetching import fetch
from cryosparc_jobs.publication import Publication
from tests.cryosparc_jobs.imitated_project import SETTINGS, Lab, N, QuickJob, run, saved_outputs
from tests.cryosparc_master import PASSWORD, Fault, ParentOutput, fields
from tests.jobs.fake_engine import FakeEngine

pytestmark = pytest.mark.filterwarnings("ignore:.*API client:UserWarning")


def test_states_return_to_the_project_on_the_parents_particles(real: Lab, engine: FakeEngine) -> None:
    finished = run(real)
    state = real.state(finished.uid)
    assert state.history == ["building", "running", "completed"]
    label = read_state_table(finished.result.directory / "states.npz").label
    seen = []
    for number in range(3):
        rows = real.cs.find_job(real.project, finished.uid).load_output(f"particles_state_{number:02d}")
        chosen = real.particles.mask(label == number)
        for column in ("uid", "blob/path", "blob/idx", "ctf/df1_A", "alignments3D/pose", "alignments3D/shift",
                       "alignments3D/split", "alignments3D/psize_A"):  # fmt: skip
            assert_array_equal(np.asarray(rows[column]), np.asarray(chosen[column]), err_msg=column)
        assert set(rows.prefixes()) == set(real.particles.prefixes())
        seen += rows["uid"].tolist()
        result = finished.result.directory / "states" / f"state{number:02d}"
        volume = real.cs.find_job(real.project, finished.uid).load_output(f"volume_state_{number:02d}")
        for slot, name in (("map", "map.mrc"), ("map_half_A", "half1.mrc"), ("map_half_B", "half2.mrc")):
            (path,) = volume[f"{slot}/path"]
            assert path.startswith(f"{finished.uid}/")
            assert (real.directory / path).read_bytes() == (result / name).read_bytes()
            written = read_map(real.directory / path)
            assert volume[f"{slot}/shape"].tolist() == [list(written.data.shape)]
            assert volume[f"{slot}/psize_A"][0] == pytest.approx(written.pixel_size_A, rel=1e-5)
        mask = real.cs.find_job(real.project, finished.uid).load_output(f"mask_state_{number:02d}")
        assert (real.directory / mask["mask/path"][0]).read_bytes() == (result / "mask.mrc").read_bytes()
    assert sorted(seen) == sorted(real.particles["uid"].tolist())


def test_page_shows_settings_progress_and_pictures(real: Lab, engine: FakeEngine) -> None:
    finished = run(real, seed=5)
    state = real.state(finished.uid)
    text = state.log_text()
    assert "seed = 5" in text
    assert "seed = 5" in state.model.description
    assert "Consensus of all particles" in text
    assert state.model.ui_tile_images
    assert all(output.image for output in state.model.spec.outputs.root.values())
    assert [event.text for event in state.events if getattr(event, "imgfiles", None)] == [
        "Particles in latent space, by state", "Central slices of the states",
    ]  # fmt: skip
    assert (real.directory / finished.uid / f"{finished.uid}_report.html").read_bytes().startswith(b"<!DOCTYPE html>")
    assert finished.result.directory == Path.cwd() / f"{real.project}_{finished.uid}"


def test_parent_and_its_files_are_untouched(real: Lab, quick: QuickJob) -> None:
    before = {path: path.read_bytes() for path in (real.directory / real.parent).iterdir() if path.suffix != ".json"}
    run(real)
    assert {path: path.read_bytes() for path in before} == before


def test_files_come_before_the_rows_that_name_them(real: Lab, quick: QuickJob) -> None:
    run(real)
    names = real.master.names()
    assert max(i for i, name in enumerate(names) if name == "projects.upload_file") < names.index("jobs.save_output")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"epoch": 3}, "epoch"),
        ({"epochs": 0}, "epochs"),
        ({"o": "elsewhere"}, "o cannot be given"),
        ({"particles": 42}, "must be a job, or a job and its output"),
        ({"particles": ("J1", "volume")}, "has no output 'volume'"),
    ],
)
def test_wrong_calls_are_refused_before_a_job_is_made(real: Lab, settings: dict[str, Any], sentence: str) -> None:
    arguments = {"particles": (real.parent, "particles"), **SETTINGS, **settings}
    with pytest.raises(InputError, match=sentence):
        train(real.cs, project=real.project, workspace="W1", **arguments)
    assert "jobs.create" not in real.master.names()


def test_particles_without_orientations_are_refused_before_a_job_is_made(real: Lab) -> None:
    rows = real.particles.filter_prefixes(["blob", "ctf"], copy=True)
    output = ParentOutput("particle", rows, {"blob": "blob", "ctf": "ctf"})
    picked = real.master.instance.add_finished_job(real.project, "extract", {"particles": output})
    with pytest.raises(InputError, match="has no alignments3D"):
        train(real.cs, project=real.project, workspace="W1", particles=(picked, "particles"), **SETTINGS)
    assert "jobs.create" not in real.master.names()


def test_stacks_that_are_not_here_fail_the_job_with_a_sentence(real: Lab, quick: QuickJob) -> None:
    for stack in (real.directory / real.parent).glob("*.mrcs"):
        stack.unlink()
    with pytest.raises(InputError, match="is not visible on this machine"):
        run(real)
    assert real.state("J2").model.status == "failed"
    assert "is not visible on this machine" in real.state("J2").log_text()
    assert saved_outputs(real, "J2") == []


def test_interrupted_run_goes_on_in_its_directory(real: Lab, engine: FakeEngine) -> None:
    engine.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run(real, directory="here")
    assert real.state("J2").model.status == "failed"
    assert saved_outputs(real, "J2") == []
    engine.error = None
    assert run(real, directory="here").uid == "J3"
    assert real.state("J3").model.status == "completed"
    assert len(saved_outputs(real, "J3")) == 10
    said = real.state("J3").log_text()
    assert "Consensus of all particles" in said
    assert "Consensus by backprojection ..." not in said, "the consensus was finished by the first run"


@pytest.mark.parametrize(
    "fault",
    [
        Fault("jobs.load_input", "error", times=-1),
        Fault("jobs.add_external_output", "error", times=-1, skip=4),
        Fault("jobs.get_output_fields", "drop", times=-1),
        Fault("projects.mkdir", "error", times=-1),
        Fault("projects.upload_file", "error", times=-1, skip=5),
        Fault("projects.upload_file", "empty", times=-1, skip=5),
        Fault("projects.upload_file", "drop", times=-1, skip=5),
        Fault("jobs.save_output", "error", times=-1),
        Fault("jobs.save_output", "empty", times=-1),
    ],
    ids=lambda fault: f"{fault.operation}-{fault.kind}",
)
def test_fault_that_stays_fails_the_job_with_a_sentence(real: Lab, quick: QuickJob, fault: Fault) -> None:
    real.master.faults.add(fault)
    with pytest.raises(MasterError) as caught:
        run(real)
    state = real.state("J2")
    assert state.history == ["building", "running", "failed"]
    assert str(caught.value) in state.log_text()
    if fault.kind != "empty":
        assert saved_outputs(real, "J2") == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault("projects.upload_file", "drop", skip=2),
        Fault("projects.upload_file", "truncate", skip=7),
        Fault("jobs.save_output", "empty", skip=1),
        Fault("jobs.save_output", "lose_answer"),
        Fault("assets.upload", "error", times=-1),
        Fault("jobs.add_event_log", "error", times=3),
        Fault("jobs.mark_completed", "lose_answer"),
    ],
    ids=lambda fault: f"{fault.operation}-{fault.kind}",
)
def test_fault_that_passes_costs_nothing(real: Lab, quick: QuickJob, fault: Fault) -> None:
    real.master.faults.add(fault)
    finished = run(real)
    state = real.state(finished.uid)
    assert state.model.status == "completed"
    assert len(saved_outputs(real, finished.uid)) == 10
    counts = {name: output.num_items for name, output in state.model.spec.outputs.root.items()}
    assert sum(count for name, count in counts.items() if name.startswith("particles_state")) == N
    assert counts["particles_all"] == N
    sources = finished.result.directory / "states"
    for number in range(3):
        arrived = real.directory / finished.uid / "states" / f"{finished.uid}_state_{number:02d}_map.mrc"
        assert arrived.read_bytes() == (sources / f"state{number:02d}" / "map.mrc").read_bytes()


@pytest.mark.parametrize("kind", ["error", "drop", "empty"])
def test_fault_among_the_saves_names_what_is_complete(real: Lab, quick: QuickJob, kind: str) -> None:
    real.master.faults.add(Fault("jobs.save_output", kind, times=-1, skip=4))  # type: ignore[arg-type]
    with pytest.raises(MasterError) as caught:
        run(real, directory="here")
    state = real.state("J2")
    assert state.history == ["building", "running", "failed"]
    complete = ["particles_state_00", "volume_state_00", "mask_state_00", "particles_state_01"]
    expected = (
        f"Complete are {', '.join(complete)}; do not use volume_state_01; mask_state_01, particles_state_02, "
        "volume_state_02, mask_state_02, particles_all were not begun."
    )
    assert expected in str(caught.value)
    assert expected in state.log_text()
    label = read_state_table(quick.result.directory / "states.npz").label
    rows = real.cs.find_job(real.project, "J2").load_output("particles_state_01")
    assert rows["uid"].tolist() == real.particles["uid"][label == 1].tolist()
    real.master.faults.clear()
    again = run(real, directory="here")
    assert len(saved_outputs(real, again.uid)) == 10


def test_job_killed_among_the_saves_says_what_is_complete(real: Lab, quick: QuickJob) -> None:
    def kill_after_two(publication: Publication, *_: Any) -> None:
        save = publication._job.save_output

        def save_or_kill(name: str, dataset: Any) -> None:
            if name == "mask_state_00":
                real.master.instance.kill(real.project, "J2")
            save(name, dataset)

        publication._job.save_output = save_or_kill  # type: ignore[method-assign]
        show(publication)

    show = Publication._show
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Publication, "_show", kill_after_two)
        with pytest.raises(JobAborted):
            run(real)
    assert real.state("J2").history == ["building", "running", "killed"]
    assert saved_outputs(real, "J2") == ["particles_state_00", "volume_state_00"]


def test_ctrl_c_among_the_saves_says_what_is_complete(real: Lab, quick: QuickJob) -> None:
    with pytest.MonkeyPatch.context() as patch:
        save = ExternalJob.save_output

        def save_or_stop(job: ExternalJob, name: str, dataset: Any) -> None:
            if name == "mask_state_00":
                raise KeyboardInterrupt
            save(job, name, dataset)

        patch.setattr(ExternalJob, "save_output", save_or_stop)
        with pytest.raises(KeyboardInterrupt):
            run(real)
    assert real.state("J2").history == ["building", "running", "failed"]
    assert "Complete are particles_state_00, volume_state_00; do not use mask_state_00;" in real.state("J2").log_text()
    assert "interrupted on the machine" in real.state("J2").log_text()


def test_latents_return_as_components_of_all_particles(real: Lab, quick: QuickJob) -> None:
    finished = run(real)
    rows = real.cs.find_job(real.project, finished.uid).load_output("particles_all")
    assert rows["uid"].tolist() == real.particles["uid"].tolist() == finished.latents.uid.tolist()
    for mode in range(2):
        assert_array_equal(rows[f"components_mode_{mode}/value"], finished.latents.z[:, mode])
        assert set(rows[f"components_mode_{mode}/component"]) == {mode}
    assert finished.outputs[-1] == "particles_all"


def test_master_that_knows_no_components_gets_the_particles_without(
    real: Lab, quick: QuickJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(fields._BY_DTYPE, "components")
    finished = run(real)
    rows = real.cs.find_job(real.project, finished.uid).load_output("particles_all")
    assert len(rows) == N
    assert "takes no latents as components" in real.state(finished.uid).log_text()


@pytest.mark.parametrize("how", ["uid", "job", "pair with job"])
def test_parent_may_be_named_by_its_job(real: Lab, quick: QuickJob, how: str) -> None:
    job = real.cs.find_job(real.project, real.parent)
    given = {"uid": real.parent, "job": job, "pair with job": (job, "particles")}[how]
    assert run(real, particles=given).uid == "J2"


def add_maps(lab: Lab, quick: QuickJob) -> str:
    """A job with the consensus mask and map of the particles; returns its uid."""
    folder = lab.directory / "J2"
    outputs = {}
    for name, slot in (("mask", "mask"), ("volume", "map")):
        row = Dataset.allocate(1, fields.columns_of(name, slot, "blob"))
        row[f"{slot}/path"] = [f">J2/{name}.mrc"]
        outputs[name] = ParentOutput(name, row, {slot: "blob"})
    uid = lab.master.instance.add_finished_job(lab.project, "volume_tools", outputs)
    for name, file in (("mask", "mask.mrc"), ("volume", "map.mrc")):
        shutil.copyfile(quick.result.directory / "consensus" / file, folder / f"{name}.mrc")
    return uid


def test_mask_and_volume_come_from_jobs(real: Lab, quick: QuickJob) -> None:
    maps = add_maps(real, quick)
    run(real, mask=(maps, "mask"), volume=maps)
    assert quick.settings is not None
    assert quick.settings.in_mask == real.directory / "J2/mask.mrc"
    assert quick.settings.in_3dref == real.directory / "J2/volume.mrc"
    connected = real.state("J3").model.spec.inputs.root
    assert {name: one.connections[0].job_uid for name, one in connected.items()} == {
        "particles": "J1", "mask": maps, "volume": maps,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mask": ("J2", "volume")}, "is an output of type volume with map; for mask one of type mask with mask"),
        ({"mask": ("J2", "masks")}, "has no output 'masks'"),
        ({"mask": ("J2", "mask"), "in_mask": "mask.mrc"}, r"in_mask cannot be given: the file comes from mask="),
        ({"volume": 7}, "volume must be a job"),
    ],
)
def test_wrong_maps_are_refused_before_a_job_is_made(
    real: Lab, quick: QuickJob, settings: dict[str, Any], sentence: str
) -> None:
    add_maps(real, quick)
    with pytest.raises(InputError, match=sentence):
        run(real, **settings)
    assert "jobs.create" not in real.master.names()


def test_mask_that_is_not_here_fails_the_job(real: Lab, quick: QuickJob) -> None:
    maps = add_maps(real, quick)
    (real.directory / "J2/mask.mrc").unlink()
    with pytest.raises(InputError, match=r"mask\.mrc is not visible on this machine"):
        run(real, mask=(maps, "mask"))
    assert real.state("J3").model.status == "failed"


def test_poses_of_several_classes_are_refused_with_the_remedy(real: Lab) -> None:
    one = ParentOutput("particle", real.particles, {slot: slot for slot in real.particles.prefixes()})
    rows = real.particles.filter_prefixes(["blob", "ctf"], copy=True)
    rows.add_fields(["alignments3D_multi/pose"], ["6f4"])
    several = ParentOutput("particle", rows, {"blob": "blob", "ctf": "ctf", "alignments3D_multi": "alignments3D_multi"})
    outputs = {"particles_all_classes": several, "particles_class_0": one}
    parent = real.master.instance.add_finished_job(real.project, "hetero_refine", outputs)
    with pytest.raises(InputError, match=r"several references.*or give one of its classes \(particles_class_0\)"):
        run(real, particles=(parent, "particles_all_classes"))
    assert "jobs.create" not in real.master.names()


def test_abort_speaks_of_this_suite(real: Lab, quick: QuickJob) -> None:
    def run_out(_: Monitor) -> None:
        raise MemoryError

    quick.first = run_out
    with pytest.raises(MemoryError):
        run(real)
    assert "run it again in its result directory (directory=" in real.state("J2").log_text()
    assert "Continue" not in real.state("J2").log_text()


def test_live_particles_become_a_file(real: Lab, tmp_path: Path) -> None:
    fetched = fetch(real.cs, project=real.project, particles=real.parent, path=tmp_path / "live.cs")
    assert fetched.uid.tolist() == real.particles["uid"].tolist()
    check_images(fetched)
    assert (tmp_path / "live.csg").exists()
    convert(ConvertSettings(in_parts=tmp_path / "live.cs", o=tmp_path / "live.star"), SilentMonitor())
    assert read_particles(tmp_path / "live.star").n == N
    with pytest.raises(InputError, match=r"must end in \.cs"):
        fetch(real.cs, project=real.project, particles=real.parent, path=tmp_path / "live.star")


def test_read_only_project_fails_the_job(real: Lab, quick: QuickJob) -> None:
    def lock(_: Monitor) -> None:
        real.master.instance.project(real.project).read_only = True

    quick.first = lock
    with pytest.raises(MasterError, match="Read-only file system"):
        run(real)
    assert real.state("J2").model.status == "failed"
    assert saved_outputs(real, "J2") == []


def test_job_killed_while_training_stays_killed_and_gets_no_outputs(real: Lab, quick: QuickJob) -> None:
    def train_until_killed(monitor: Monitor) -> None:
        real.master.instance.kill(real.project, "J2")
        for _ in monitor.track(iter(int, 1), "Training", total=10**9):
            time.sleep(0.01)

    quick.first = train_until_killed
    with pytest.raises(JobAborted):
        run(real)
    assert real.state("J2").history == ["building", "running", "killed"]
    assert saved_outputs(real, "J2") == []


def test_job_killed_while_uploading_gets_no_outputs(real: Lab, quick: QuickJob) -> None:
    real.master.faults.add(Fault("projects.upload_file", "slow", skip=3, seconds=1.0))
    quick.first = lambda _: threading.Timer(0.5, real.master.instance.kill, (real.project, "J2")).start()
    with pytest.raises(JobAborted):
        run(real)
    assert real.state("J2").history == ["building", "running", "killed"]
    assert saved_outputs(real, "J2") == []


def test_result_of_other_particles_is_refused(real: Lab, quick: QuickJob) -> None:
    rows = real.particles.copy()
    rows["uid"] = rows["uid"] + np.uint64(1)
    output = ParentOutput("particle", rows, {slot: slot for slot in rows.prefixes()})
    other = real.master.instance.add_finished_job(real.project, "homo_refine_new", {"particles": output})
    with pytest.raises(InputError, match="the result is of other particles"):
        train(real.cs, project=real.project, workspace="W1", particles=(other, "particles"), **SETTINGS)
    assert saved_outputs(real, "J3") == []


def test_no_file_or_event_holds_a_credential(real: Lab, quick: QuickJob) -> None:
    finished = run(real)
    secrets = [token.encode() for token in real.master.tokens] + [PASSWORD.encode()]
    written = [path for path in finished.result.directory.rglob("*") if path.is_file()]
    assert any(path.name == "run.log" for path in written)
    for path in written:
        assert not any(secret in path.read_bytes() for secret in secrets), path
    events = json.dumps(real.state(finished.uid).log_text())
    assert not any(secret.decode() in events for secret in secrets)

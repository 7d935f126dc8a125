"""From a refinement in the imitated project to states in it: the unpatched client, the real job, a quick engine."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cryosparc.dataset import Dataset
from cryosparc.tools import CryoSPARC
from numpy.testing import assert_array_equal

from cryodrgn_ext.errors import InputError, JobAborted
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.jobs.convert import convert
from cryodrgn_ext.jobs.options.convert import ConvertSettings
from cryodrgn_ext.jobs.options.train import TrainSettings
from cryodrgn_ext.jobs.outputs import JobResult
from cryodrgn_ext.jobs.pictures import Pictures, draw_pictures
from cryodrgn_ext.jobs.registry import JOBS
from cryodrgn_ext.jobs.result_tables import read_state_table
from cryodrgn_ext.jobs.train import train as train_job
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.simulate import simulate_particles, two_domain_protein, write_relion_project
from cryosparc_jobs import lifecycle, publish
from cryosparc_jobs import training as train_module
from cryosparc_jobs.errors import MasterError
from cryosparc_jobs.training import FinishedJob, train
from tests.cryosparc_jobs.conftest import Lab
from tests.cryosparc_master import EMAIL, PASSWORD, Fault, Master, ParentOutput
from tests.jobs.fake_engine import FakeEngine, install

pytestmark = pytest.mark.filterwarnings("ignore:.*API client:UserWarning")
N = 120
BOX = 20
SETTINGS: dict[str, Any] = {"zdim": 2, "states": 3, "volumes": 2, "device": "cpu"}


@pytest.fixture(scope="session")
def refinement(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated project as files: particles.cs and its stack."""
    folder = tmp_path_factory.mktemp("refinement")
    particles = simulate_particles(N, motion=two_domain_protein(), box_size=BOX, pixel_size_A=12.0, snr=1.0,
                                   max_shift_px=1.0, seed=1)  # fmt: skip
    write_relion_project(folder, particles)
    convert(ConvertSettings(in_parts=folder / "particles.star", o=folder / "particles.cs"), SilentMonitor())
    return folder


@pytest.fixture
def real(refinement: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A lab whose parent has particles with images; the working directory is elsewhere."""
    monkeypatch.setattr(lifecycle, "END_PAUSE_S", 0.01)
    monkeypatch.setattr(train_module, "POLL_S", 0.1)
    monkeypatch.chdir(tmp_path)
    with Master(tmp_path / "projects") as master:
        project = master.instance.add_project()
        particles = Dataset.load(refinement / "particles.cs")
        stacks = np.unique(particles["blob/path"])
        slots = {slot: slot for slot in particles.prefixes()}
        particles["blob/path"] = [f">J1/{Path(name).name}" for name in particles["blob/path"]]
        output = ParentOutput("particle", particles, slots, passthrough=("ctf",))
        parent = master.instance.add_finished_job(project, "homo_refine_new", {"particles": output})
        (stack,) = refinement.rglob(Path(stacks[0]).name)
        shutil.copyfile(stack, tmp_path / "projects" / project / parent / stack.name)
        cs = CryoSPARC(base_url=master.url, host=None, base_port=None, email=EMAIL, password=PASSWORD, timeout=20)
        yield Lab(master, cs, project, parent, particles)
        cs.api._client.close()
    assert master.unexpected == []


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    return install(monkeypatch)


@pytest.fixture(scope="session")
def finished_once(refinement: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[JobResult, Pictures]:
    """What the real job leaves, once, and its pictures."""
    folder = tmp_path_factory.mktemp("finished")
    settings = TrainSettings(in_parts=refinement / "particles.cs", o=folder / "result", **SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        result = train_job(settings, SilentMonitor())
    return result, draw_pictures(result.directory, folder / "pictures")


@dataclass
class QuickJob:
    """Stands for the train job: leaves what the real one left for the same particles, after ``first``."""

    result: JobResult
    first: Callable[[Monitor], None] | None = None

    def __call__(self, settings: TrainSettings, monitor: Monitor) -> JobResult:
        assert read_particles(settings.in_parts).n == N
        monitor.message("Training")
        if self.first is not None:
            self.first(monitor)
        shutil.copytree(self.result.directory, settings.o, dirs_exist_ok=True)
        return JobResult(settings.o, ())


@pytest.fixture
def quick(finished_once: tuple[JobResult, Pictures], monkeypatch: pytest.MonkeyPatch) -> QuickJob:
    job = QuickJob(finished_once[0])
    monkeypatch.setitem(JOBS, "train", SimpleNamespace(load=lambda: job))  # type: ignore[arg-type]
    monkeypatch.setattr(publish, "draw_pictures", lambda result, folder: finished_once[1])
    return job


def run(lab: Lab, **settings: Any) -> FinishedJob:
    source = (lab.parent, "particles")
    return train(lab.cs, project=lab.project, workspace="W1", particles=source, **{**SETTINGS, **settings})


def saved_outputs(lab: Lab, uid: str) -> list[str]:
    outputs = lab.state(uid).model.spec.outputs.root
    return [name for name, output in outputs.items() if any(result.metafiles for result in output.results)]


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
        ({"particles": "J1"}, "must be a job and an output"),
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
    assert len(saved_outputs(real, "J3")) == 9
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
    assert len(saved_outputs(real, finished.uid)) == 9
    counts = {name: output.num_items for name, output in state.model.spec.outputs.root.items()}
    assert sum(count for name, count in counts.items() if name.startswith("particles")) == N
    sources = finished.result.directory / "states"
    for number in range(3):
        arrived = real.directory / finished.uid / "states" / f"{finished.uid}_state_{number:02d}_map.mrc"
        assert arrived.read_bytes() == (sources / f"state{number:02d}" / "map.mrc").read_bytes()


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
    rows = real.particles.take(np.roll(np.arange(N), 1))
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

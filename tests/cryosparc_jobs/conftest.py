"""Running imitations of the master with a finished refinement in them, and the real client connected."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cryodrgn_ext.jobs.registry import Job
from cryodrgn_ext.jobs.train import train as train_job
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.workflow.job_result import JobResult
from cryosparc_jobs import lifecycle, running
from tests.blank_pictures import install as install_blank_pictures
from tests.cryosparc_jobs.imitated_project import (
    BOX,
    SETTINGS,
    SLOTS,
    Lab,
    N,
    QuickJob,
    connected,
    project_with,
    refined_particles,
    simulate_refinement,
)
from tests.cryosparc_master import ParentOutput
from tests.jobs.fake_engine import FakeEngine, install


@pytest.fixture(autouse=True)
def blank_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing, except in fixtures that tests share, and in tests of the mark ``draws``."""
    if request.node.get_closest_marker("draws") is None:
        install_blank_pictures(monkeypatch)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A project with a refinement whose particles have random values and no images."""
    with connected(tmp_path / "projects") as (master, cs):
        project = master.instance.add_project()
        particles = refined_particles(20)
        output = ParentOutput("particle", particles, SLOTS, passthrough=("location",))
        parent = master.instance.add_finished_job(project, "nonuniform_refine_new", {"particles": output})
        yield Lab(master, cs, project, parent, particles)


@pytest.fixture(scope="session")
def refinement(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated project as files: particles.cs and its stack."""
    folder = tmp_path_factory.mktemp("refinement")
    simulate_refinement(folder, N, box_size=BOX, pixel_size_A=12.0, snr=1.0)
    return folder


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Short pauses; the working directory is elsewhere."""
    monkeypatch.setattr(lifecycle, "END_PAUSE_S", 0.01)
    monkeypatch.setattr(running, "POLL_S", 0.1)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def real(refinement: Path, tmp_path: Path, impatient: None) -> Iterator[Lab]:
    """A lab whose parent has particles with images."""
    with project_with(refinement, tmp_path / "projects") as made:
        yield made


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    return install(monkeypatch)


@pytest.fixture(scope="session")
def finished_once(refinement: Path, tmp_path_factory: pytest.TempPathFactory) -> JobResult:
    """Files that the real job leaves, once."""
    folder = tmp_path_factory.mktemp("finished")
    settings = TrainSettings(in_parts=refinement / "particles.cs", o=folder / "result", **SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        return train_job(settings, SilentMonitor())


@pytest.fixture
def quick(finished_once: JobResult, monkeypatch: pytest.MonkeyPatch) -> QuickJob:
    """Training that takes no time."""
    job = QuickJob(finished_once)
    load = Job.load
    monkeypatch.setattr(Job, "load", lambda one: job if one.name == "train" else load(one))
    return job

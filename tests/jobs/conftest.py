"""A small simulated project, the finished result of a train job in it, and an engine that takes no time."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from cryodrgn_ext.jobs.train import train
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.simulate import simulate_particles, two_domain_protein, write_relion_project
from tests.blank_pictures import install as install_blank_pictures
from tests.jobs.fake_engine import FakeEngine, install

N = 120
BOX = 20
PIXEL_SIZE_A = 12.0
SETTINGS = TrainSettings(in_parts=Path("particles.star"), o=Path("out"), zdim=2, states=3, volumes=4, device="cpu")


@dataclass(frozen=True)
class FinishedProject:
    """A project with a finished train job in ``out``, and what the run said."""

    root: Path
    said: str


@pytest.fixture(autouse=True)
def blank_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing, except in fixtures that tests share, and in tests of the mark ``draws``."""
    if request.node.get_closest_marker("draws") is None:
        install_blank_pictures(monkeypatch)


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    motion = two_domain_protein()
    particles = simulate_particles(N, motion=motion, box_size=BOX, pixel_size_A=PIXEL_SIZE_A, snr=1.0, max_shift_px=1.0,
                                   seed=1)  # fmt: skip
    write_relion_project(folder, particles)
    return folder


@pytest.fixture(scope="session")
def finished_once(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedProject:
    root = tmp_path_factory.mktemp("finished") / "project"
    shutil.copytree(simulated, root)
    said = StringIO()
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        patch.chdir(root)
        train(SETTINGS, Monitor(said))
    return FinishedProject(root, said.getvalue())


@pytest.fixture
def project(simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project, which is the working directory."""
    folder = tmp_path / "project"
    shutil.copytree(simulated, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def finished(finished_once: FinishedProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FinishedProject:
    """A copy of the project with its finished job, which is the working directory."""
    root = tmp_path / "project"
    shutil.copytree(finished_once.root, root, copy_function=shutil.copy2)
    record = root / "out/job.yaml"
    record.write_text(record.read_text().replace(str(finished_once.root), str(root)))
    monkeypatch.chdir(root)
    return FinishedProject(root, finished_once.said)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    return install(monkeypatch)


@pytest.fixture
def trained(finished: FinishedProject, engine: FakeEngine) -> Path:
    """The project with its finished job, as the working directory, where further jobs use the fake engine."""
    return finished.root


def latents_in(result: Path) -> np.ndarray:
    """Latents (N, q) of a result directory."""
    with np.load(result / "latents.npz") as arrays:
        return arrays["z"]

"""A small simulated project, and an engine that takes no time."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cryodrgn_ext.simulate import simulate_particles, two_domain_protein, write_relion_project
from tests.jobs.fake_engine import FakeEngine, install

N = 120


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    particles = simulate_particles(N, motion=two_domain_protein(), box_size=32, pixel_size_A=8.0, snr=1.0, seed=1)
    write_relion_project(folder, particles)
    return folder


@pytest.fixture
def project(simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project, which is the working directory."""
    folder = tmp_path / "project"
    shutil.copytree(simulated, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    return install(monkeypatch)

"""A train job on two processes: started by the job itself, and by torchrun; and what becomes of a helper's failure."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from cryodrgn_ext.cli import main as cryodrgn_ext
from cryodrgn_ext.cli.helper_process import main
from cryodrgn_ext.errors import CryodrgnExtError, InputError
from cryodrgn_ext.jobs.registry import JOBS
from cryodrgn_ext.jobs.train import HELPER_MODULE
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.simulate import simulate_particles, write_relion_project
from cryodrgn_ext.workflow import launcher
from cryodrgn_ext.workflow.launcher import ProcessGroup, helper_command
from tests.blank_pictures import install as install_blank_pictures
from tests.patience import HANGS_S

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ["--zdim", "2", "--epochs", "2", "--dec_dim", "16", "--states", "1", "--volumes", "0"]
OPTIONS += ["--precision", "float32", "--device", "cpu"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_relion_project(folder, simulate_particles(120, box_size=32, pixel_size_A=8.0, snr=1.0, seed=1))
    return folder


def run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=project, env=environment, capture_output=True, text=True, timeout=HANGS_S
    )


def latents(project: Path, name: str) -> np.ndarray:
    with np.load(project / name / "latents.npz") as table:
        z: np.ndarray = table["z"]
        return z


@pytest.fixture
def in_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The working directory of a job that this process leads; it sets threads, and its pictures are blank."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.chdir(project)
    install_blank_pictures(monkeypatch)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_processes_of_the_job_and_of_torchrun_give_the_same_latents(project: Path, in_project: None) -> None:
    train = ["train", "--in_parts", "particles.star", *OPTIONS, "--o"]
    own = CliRunner().invoke(cryodrgn_ext, [*train, "own", "--processes", "2"])
    assert own.exit_code == 0, own.output
    assert "Training on 2 processes" in own.output
    torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "cryodrgn_ext"]
    launched = run(project, *torchrun, *train, "launched")
    assert launched.returncode == 0, launched.stderr
    assert launched.stdout.count("Finished in") == 1
    expected = latents(project, "own")
    assert np.abs(latents(project, "launched") - expected).max() < 1e-4 * np.abs(expected).max()
    again = run(project, *torchrun, *train, "launched")  # nothing left to train: the helper is dismissed
    assert again.returncode == 0, again.stderr


def test_a_helper_that_fails_ends_the_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    settings = TrainSettings(in_parts=tmp_path / "missing.star", o=tmp_path, processes=2)
    group = ProcessGroup(2, 2, helper_command(HELPER_MODULE, "train", settings), SilentMonitor())
    with pytest.raises(CryodrgnExtError, match="process 1 of the training ended"), group.assembled():
        pytest.fail("the training began without its helper")


def test_files_of_the_user_do_not_stand_for_modules(tmp_path: Path) -> None:
    """Project directories hold scripts, some of which are called as modules are."""
    for name in ("random", "types", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a script of the user ran')")
    settings = TrainSettings(in_parts=tmp_path / "missing.star", o=tmp_path, processes=2)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RANK": "1", "WORLD_SIZE": "2",
                                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}  # fmt: skip
    reads, writes = os.pipe()  # the helper leaves when its leader's end closes
    try:
        done = subprocess.run(helper_command(HELPER_MODULE, "train", settings), cwd=tmp_path, env=environment,
                              stdin=reads, capture_output=True, text=True, timeout=HANGS_S)  # fmt: skip
    finally:
        os.close(reads)
        os.close(writes)
    assert "ran" not in done.stderr
    assert "missing.star: this STAR file does not exist" in done.stderr


def test_processes_and_torchrun_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="torchrun"):
        ProcessGroup(2, 0, [], SilentMonitor())


def test_jobs_with_nothing_to_share_are_refused() -> None:
    with pytest.raises(InputError, match="one process"):
        JOBS["select"].load_worker()


def test_a_helper_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(launcher, "_leave_with_the_leader", lambda: None)
    assert main(["train", f'{{"in_parts": "{tmp_path}/missing.star", "o": "{tmp_path}"}}']) == 2
    assert "missing.star" in capsys.readouterr().err

"""Finding what belongs to a run of the public cryodrgn, with nothing run on the way."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cryodrgn_run import read_run

CONFIG = """cmd:
- /opt/bin/cryodrgn
- train_vae
dataset_args:
  ctf: inputs/ctf.pkl
  datadir: null
  do_pose_sgd: false
  ind: inputs/ind.pkl
  invert_data: true
  norm:
  - !!python/object/apply:numpy.core.multiarray.scalar
    - !!python/object/apply:numpy.dtype
      args:
      - f4
      - false
      - true
    - !!binary |
      AAAAAA==
  - 1.0
  particles: inputs/particles.128.mrcs
  poses: inputs/poses.pkl
lattice_args:
  D: 129
model_args:
  zdim: 8
seed: 1
time: 2024-05-01 10:00:00
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A project with inputs beside the run, as users have them."""
    (tmp_path / "inputs").mkdir()
    for name in ("ctf.pkl", "ind.pkl", "particles.128.mrcs", "poses.pkl"):
        (tmp_path / "inputs" / name).touch()
    directory = tmp_path / "00_vae128"
    directory.mkdir()
    (directory / "config.yaml").write_text(CONFIG)
    for epoch in (0, 9, 19):
        (directory / f"z.{epoch}.pkl").touch()
        (directory / f"weights.{epoch}.pkl").touch()
    return directory


def test_files_of_a_run(run: Path) -> None:
    found = read_run(run)
    assert (found.latents.name, found.epoch) == ("z.19.pkl", 19)
    inputs = run.parent / "inputs"
    assert found.particles == inputs / "particles.128.mrcs"
    assert found.poses == inputs / "poses.pkl"
    assert found.ctf == inputs / "ctf.pkl"
    assert found.ind == inputs / "ind.pkl"
    assert found.datadir is None


def test_an_epoch_and_the_end(run: Path) -> None:
    assert read_run(run, epoch=9).latents.name == "z.9.pkl"
    with pytest.raises(InputError, match=r"has no z\.5\.pkl"):
        read_run(run, epoch=5)
    (run / "z.pkl").touch()
    assert (read_run(run).latents.name, read_run(run).epoch) == ("z.pkl", None)


def test_poses_that_the_run_refined_win(run: Path) -> None:
    (run / "pose.9.pkl").touch()
    (run / "pose.19.pkl").touch()
    assert read_run(run).poses == run / "pose.19.pkl"
    assert read_run(run, epoch=9).poses == run / "pose.9.pkl"
    assert read_run(run, epoch=0).poses == run.parent / "inputs" / "poses.pkl"


def test_flat_configuration_in_a_folder_of_outputs(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "z.4.pkl").touch()
    (tmp_path / "out" / "train-configs.yaml").write_text("particles: /data/p.star\npose: null\nctf: /data/ctf.pkl\n")
    found = read_run(tmp_path)
    assert found.latents == tmp_path / "out" / "z.4.pkl"
    assert found.particles == Path("/data/p.star")
    assert found.poses is None


def test_pickled_configuration(run: Path) -> None:
    (run / "config.yaml").unlink()
    values = {"dataset_args": {"particles": "inputs/particles.128.mrcs", "norm": [np.float32(0), np.float32(1)]}}
    (run / "config.pkl").write_bytes(pickle.dumps(values))
    assert read_run(run).particles == run.parent / "inputs" / "particles.128.mrcs"


class Runs:
    """Pickles as a call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["yaml", "pickle"])
def test_code_in_a_configuration_never_runs(kind: str, run: Path) -> None:
    witness = run / "was_run"
    if kind == "yaml":
        (run / "config.yaml").write_text(CONFIG + f"evil: !!python/object/apply:os.mkdir ['{witness}']\n")
        assert read_run(run).epoch == 19
    else:
        (run / "config.yaml").unlink()
        (run / "config.pkl").write_bytes(pickle.dumps({"dataset_args": Runs(witness)}))
        with pytest.raises(InputError, match=r"nothing of it was run.*by their options"):
            read_run(run)
    assert not witness.exists()


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "just text"])
def test_damaged_configuration(text: str, run: Path) -> None:
    (run / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=r"config\.yaml") as caught:
        read_run(run)
    assert "\n" not in str(caught.value)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no z\.pkl"):
        read_run(tmp_path)
    with pytest.raises(InputError, match="is no directory"):
        read_run(tmp_path / "nowhere")


def test_a_run_of_another_project_has_the_files_of_its_own(
    run: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working directory may be another project, with files of the same names."""
    other = tmp_path_factory.mktemp("other")
    (other / "inputs").mkdir()
    for name in ("ctf.pkl", "ind.pkl", "particles.128.mrcs", "poses.pkl"):
        (other / "inputs" / name).touch()
    monkeypatch.chdir(other)
    found = read_run(run)
    project = run.parent / "inputs"
    assert (found.particles, found.ctf, found.ind) == (
        project / "particles.128.mrcs", project / "ctf.pkl", project / "ind.pkl",
    )  # fmt: skip
    (note,) = found.notes
    assert f"although {other} has inputs/particles.128.mrcs too" in note
    monkeypatch.chdir(run.parent)
    assert read_run(run).notes == ()


def test_all_files_are_named_from_one_directory(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the particles are found says where the run was started, also if its own folder has pickles of the names."""
    monkeypatch.chdir(run.parent.parent)
    (run / "inputs").mkdir()
    (run / "inputs" / "ctf.pkl").touch()
    assert read_run(run).ctf == run.parent / "inputs" / "ctf.pkl"


def test_what_was_exported_says_its_particles(tmp_path: Path) -> None:
    (tmp_path / "z.pkl").touch()
    assert read_run(tmp_path).particles is None
    (tmp_path / "particles.star").touch()
    assert read_run(tmp_path).particles == tmp_path / "particles.star"

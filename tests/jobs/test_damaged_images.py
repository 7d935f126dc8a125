"""A job on damaged images: the useless ones stay rows, belong to no state, and are named everywhere."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import yaml

from cryodrgn_ext.jobs.consensus import consensus
from cryodrgn_ext.jobs.report import report
from cryodrgn_ext.jobs.select import select
from cryodrgn_ext.jobs.train import train
from cryodrgn_ext.jobs.validate import validate
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.options.consensus import ConsensusSettings
from cryodrgn_ext.options.report import ReportSettings
from cryodrgn_ext.options.select import SelectSettings
from cryodrgn_ext.options.validate import ValidateSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.results.learned_result import read_learned_result
from tests.jobs.conftest import SETTINGS, N
from tests.jobs.fake_engine import FakeEngine

USELESS, DUSTY = [4, 50, 51], [7, 90]


@pytest.fixture
def damaged(project: Path, engine: FakeEngine) -> Path:
    """The project with constant images, one that is not a number, and hot pixels of either sign."""
    stack = project / "Particles/particles.mrcs"
    with mrcfile.mmap(stack, mode="r+") as file:
        file.data[4], file.data[50], file.data[51] = 0.0, np.nan, 7.0
        file.data[7, 3, 3], file.data[90, 15, 9] = 5000.0, -5000.0
    return project


def states() -> np.ndarray:
    with np.load("out/states.npz") as table:
        return np.asarray(table["label"])


def test_useless_images_are_rows_without_a_state(damaged: Path) -> None:
    said = io.StringIO()
    result = train(SETTINGS, Monitor(said))
    label = states()
    assert len(label) == N
    assert np.flatnonzero(label < 0).tolist() == USELESS
    assert min(np.bincount(label[label >= 0])) >= 10
    returned = starfile.read("out/particles.star")["particles"]
    assert returned["rlnImageName"].tolist() == starfile.read("particles.star")["particles"]["rlnImageName"].tolist()
    assert np.flatnonzero(returned["cdxState"] < 0).tolist() == USELESS
    for output in result.outputs:
        assert output.path is not None
        assert output.path.exists()
    record = yaml.safe_load(Path("out/job.yaml").read_text())
    assert sum(state["particles"] for state in record["results"]["states"]) == N - len(USELESS)
    for text in (said.getvalue(), " ".join(record["results"]["notes"])):
        assert f"{len(USELESS)} of {N} images cannot be used" in text
        assert f"in {len(DUSTY)} of {N} images" in text
    remarks = starfile.read("out/image_remarks.star")
    assert (remarks["cdxRow"] - 1).tolist() == sorted(USELESS + DUSTY)
    assert remarks["rlnImageName"].tolist() == [read_particles("particles.star").image_name[row]
                                                for row in sorted(USELESS + DUSTY)]  # fmt: skip


def test_what_follows_leaves_them_out(damaged: Path) -> None:
    train(SETTINGS, SilentMonitor())
    result = read_learned_result(Path("out"))
    kept = np.setdiff1d(np.arange(N), USELESS)
    for given in ("out", "out/particles.star"):
        assert read_learned_result(Path(given)).rows.tolist() == kept.tolist()
    assert result.unusable.tolist() == USELESS
    select(SelectSettings(in_parts=Path("out"), o=Path("chosen.star"), z_norm_max=1e9), SilentMonitor())
    chosen = starfile.read("chosen.star")["particles"]
    assert len(chosen) == len(kept)
    report(ReportSettings(in_result=Path("out")), SilentMonitor())
    validate(ValidateSettings(in_parts=Path("out"), o=Path("proof"), random_subsets=12, device="cpu"), SilentMonitor())
    assert sum(
        state["particles"] for state in yaml.safe_load(Path("proof/job.yaml").read_text())["results"]["states"]
    ) == (len(kept))


def test_a_consensus_is_that_of_the_others(damaged: Path) -> None:
    settings = ConsensusSettings(in_parts=Path("particles.star"), o=Path("all"), device="cpu")
    consensus(settings, SilentMonitor())
    lines = Path("particles.star").read_text().splitlines(keepends=True)
    rows = [number for number, line in enumerate(lines) if "@" in line]
    gone = {rows[row] for row in USELESS}
    Path("others.star").write_text("".join(line for number, line in enumerate(lines) if number not in gone))
    consensus(replace(settings, in_parts=Path("others.star"), o=Path("others")), SilentMonitor())
    first, second = (mrcfile.read(Path(name) / "consensus/half1.mrc") for name in ("all", "others"))
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.999


def test_images_without_a_particle_are_listed_and_can_be_taken_out(project: Path, engine: FakeEngine) -> None:
    empty = [3, 30, 31, 80]
    with mrcfile.mmap(project / "Particles/particles.mrcs", mode="r+") as file:
        for row in empty:
            file.data[row] = np.random.default_rng(row).normal(size=file.data[row].shape)
    said = io.StringIO()
    train(SETTINGS, Monitor(said))
    listed = starfile.read("out/empty_images.star")
    assert (listed["cdxRow"] - 1).tolist() == empty
    assert f"{len(empty)} of {N} images show nothing of the consensus" in said.getvalue()
    assert (states() >= 0).all()
    select(SelectSettings(in_parts=Path("out"), o=Path("clean.star"), junk=False), SilentMonitor())
    names = read_particles("particles.star").image_name
    kept = starfile.read("clean.star")["particles"]["rlnImageName"].tolist()
    assert kept == np.delete(names, empty).tolist()

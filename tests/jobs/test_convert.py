"""cryodrgn-ext convert: formats by suffix, what is said about losses, references, and RELION as a reader."""

from __future__ import annotations

import io
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starfile
import yaml
from click.testing import CliRunner
from cryosparc.dataset import Dataset

from cryodrgn_ext.cli import main
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.convert import convert
from cryodrgn_ext.jobs.select import select
from cryodrgn_ext.jobs.train import train
from cryodrgn_ext.options.convert import ConvertSettings
from cryodrgn_ext.options.select import SelectSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.workflow.job_result import OutputKind
from tests.jobs.conftest import SETTINGS
from tests.jobs.fake_engine import FakeEngine
from tests.metadata.conftest import StarBuilder
from tests.metadata.cs_data import particles_record, save
from tests.metadata.test_csg import make_job


@pytest.fixture(autouse=True)
def _in_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def converted(given: str, output: str, **options: object) -> str:
    """Run the job and return what it said."""
    stream = io.StringIO()
    result = convert(ConvertSettings(in_parts=Path(given), o=Path(output), **options), Monitor(stream))  # type: ignore[arg-type]
    assert result.files[0].kind is OutputKind.PARTICLES
    assert result.files[0].path.is_file()
    return stream.getvalue()


def test_there_and_back() -> None:
    record = particles_record()
    save(Path("a.cs"), record)
    said = converted("a.cs", "b.star")
    assert "blob/sign" in said
    assert "alignments3D/error" in said
    assert "40 particles are dark on light" in said
    converted("b.star", "c.csg")
    back = Dataset.load("c.cs")
    assert np.array_equal(back["uid"], record["uid"])
    assert np.array_equal(back["alignments3D/error"], record["alignments3D/error"])
    np.testing.assert_allclose(back["alignments3D/pose"], record["alignments3D/pose"], atol=1e-6)
    group = yaml.safe_load(Path("c.csg").read_text())
    assert {one["num_items"] for one in group["results"].values()} == {40}
    assert {one["metafile"] for one in group["results"].values()} == {">c.cs"}


def test_losses_are_listed() -> None:
    StarBuilder().write(Path("a.star"))
    said = converted("a.star", "b.cs")
    line = next(line for line in said.splitlines() if line.startswith("Not converted"))
    assert "rlnSomethingUnknown" in line
    assert "rlnDefocusU" not in line
    assert "blob/sign is 1" in said
    assert "blob/sign is -1" in converted("a.star", "c.cs", contrast="black")
    assert (Dataset.load("c.cs")["blob/sign"] == -1).all()
    save(Path("a.cs"), particles_record())
    assert "Not converted" in converted("a.cs", "d.star", carry=False)


def test_reference_gives_the_original_back() -> None:
    original = StarBuilder().write(Path("a.star"))
    converted("a.star", "b.cs")
    said = converted("b.cs", "c.star", reference=original)
    assert "by image path and index" in said
    assert "nothing has changed" in said
    assert Path("c.star").read_bytes() == original.read_bytes()
    with pytest.raises(InputError, match=r"must be a \.cs or \.csg file as the output is"):
        converted("a.star", "d.cs", reference=original)


def test_job_directory_and_passthrough() -> None:
    make_job(Path("J9"))
    converted("J9", "a.star")
    assert len(starfile.read("a.star")["particles"]) == 40
    shutil.copy("J9/J9_005_particles.cs", "alone.cs")
    with pytest.raises(InputError, match="passthrough"):
        converted("alone.cs", "b.star")
    converted("alone.cs", "b.star", passthrough=("J9/J9_passthrough_particles.cs",))
    assert Path("b.star").read_text() == Path("a.star").read_text()


@pytest.mark.parametrize("output", ["a.cs", "a.csg", "a.txt", "none/b.star"])
def test_outputs_that_are_refused(output: str) -> None:
    content = save(Path("a.cs"), particles_record()).read_bytes()
    with pytest.raises(InputError, match=r"never overwritten|must end in|does not exist"):
        converted("a.cs", output)
    assert Path("a.cs").read_bytes() == content
    assert sorted(path.name for path in Path().iterdir()) == ["a.cs"]


def test_command_line() -> None:
    save(Path("a.cs"), particles_record())
    done = CliRunner().invoke(main, ["convert", "a.cs", "b.star"])
    assert done.exit_code == 0, done.output
    failed = CliRunner().invoke(main, ["convert", "none.cs", "c.star"])
    assert failed.exit_code == 2
    assert failed.stderr == f"ERROR: none.cs: this .cs file does not exist in the working directory, {Path.cwd()}\n"


def test_selection_goes_back_as_the_rows_of_the_users_cs(project: Path, engine: FakeEngine) -> None:
    converted("particles.star", "refined.cs")
    record = np.load("refined.cs", allow_pickle=False)
    shuffled = save(Path("refined2.cs"), record[np.random.default_rng(0).permutation(len(record))])
    given = np.load(shuffled, allow_pickle=False)
    train(replace(SETTINGS, in_parts=shuffled), SilentMonitor())
    with np.load("out/latents.npz") as latents, np.load("out/states.npz") as states:
        assert np.array_equal(latents["uid"], given["uid"])
        rows = np.flatnonzero(states["label"] == 1)
    select(SelectSettings(in_parts=Path("out"), o=Path("state1.cs"), state=(1,)), SilentMonitor())
    subset = np.load("state1.cs", allow_pickle=False)
    assert subset.dtype == given.dtype
    assert np.array_equal(subset, given[rows])
    group = yaml.safe_load(Path("state1.csg").read_text())
    assert {one["num_items"] for one in group["results"].values()} == {len(rows)}
    select(SelectSettings(in_parts=Path("out"), o=Path("CAPITALS.CS"), state=(1,)), SilentMonitor())
    assert np.array_equal(np.load("CAPITALS.CS", allow_pickle=False), given[rows])
    # Also when the original is gone: the STAR file in the result carries the uids.
    shuffled.unlink()
    select(SelectSettings(in_parts=Path("out"), o=Path("again.cs"), state=(1,)), SilentMonitor())
    assert np.array_equal(np.load("again.cs", allow_pickle=False)["uid"], subset["uid"])


@pytest.mark.relion
def test_relion_reads_and_writes_the_star() -> None:
    record = particles_record()
    save(Path("a.cs"), record)
    converted("a.cs", "b.star")
    command = ["relion_star_handler", "--i", "b.star", "--o", "c.star", "--select", "rlnDefocusU", "--minval", "0"]
    subprocess.run(command, check=True, capture_output=True)
    converted("c.star", "d.cs")
    back = Dataset.load("d.cs")
    for name in record.dtype.names or ():
        if record.dtype[name].base.kind == "f":
            np.testing.assert_allclose(back[name], record[name], rtol=2e-6, atol=2e-5, err_msg=name)
        else:
            expected = [one.decode() for one in record[name]] if record.dtype[name].kind == "S" else record[name]
            assert np.array_equal(back[name], expected), name

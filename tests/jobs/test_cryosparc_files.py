"""Jobs on CryoSPARC's files from the shell: .cs, .csg and job directories in, the same format back."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starfile
import yaml

from cryodrgn_ext.errors import InputError, ResumeError
from cryodrgn_ext.jobs.select import select
from cryodrgn_ext.jobs.train import train
from cryodrgn_ext.jobs.validate import validate
from cryodrgn_ext.metadata.particle_writing import write_particles_cs, write_particles_star
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.options.select import SelectSettings
from cryodrgn_ext.options.validate import ValidateSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.results.record import read_record
from cryodrgn_ext.workflow.job_result import OutputKind
from tests.jobs.conftest import SETTINGS, N
from tests.jobs.fake_engine import FakeEngine
from tests.metadata.cs_data import Record, only, save


@pytest.fixture
def job(project: Path) -> Path:
    """J9, a refinement of the project's particles as CryoSPARC leaves it, its rows in an order of their own."""
    write_particles_cs(read_particles("particles.star"), "all.cs")
    record = np.load("all.cs", allow_pickle=False)
    record = record[np.random.default_rng(1).permutation(N)]
    Path("all.cs").unlink()
    Path("J9").mkdir()
    save(Path("J9/J9_005_particles.cs"), only(record, "alignments3D", "ctf"))
    save(Path("J9/J9_passthrough_particles.cs"), only(record, "blob", "location")[::-1])
    files = {"alignments3D": "J9_005", "ctf": "J9_005", "blob": "J9_passthrough"}
    results = {slot: {"metafile": f">{file}_particles.cs", "num_items": N, "type": f"particle.{slot}"}
               for slot, file in files.items()}  # fmt: skip
    group = {"description": "", "name": "particles", "title": "Particles", "type": "particle"}
    Path("J9/J9_particles.csg").write_text(yaml.safe_dump({"group": group, "results": results, "version": "v4.4.1"}))
    shutil.move("particles.star", project.parent / "elsewhere.star")
    return Path("J9")


def rows(path: str | Path) -> Record:
    return np.asarray(np.load(path, allow_pickle=False))


@pytest.mark.parametrize("given", ["J9", "J9/J9_particles.csg", "J9/J9_005_particles.cs"])
def test_every_way_to_name_a_job_is_trained_on(given: str, job: Path, engine: FakeEngine) -> None:
    result = train(replace(SETTINGS, in_parts=Path(given)), SilentMonitor())
    particles = [one.path for one in result.files if one.kind is OutputKind.PARTICLES]
    assert particles == [Path("out/particles.cs"), *(Path(f"out/states/state0{i}/particles.cs") for i in range(3))]
    assert not list(Path("out").rglob("*.star")) or {path.name for path in Path("out").rglob("*.star")} == {"fsc.star"}
    original = read_particles(given)
    with np.load("out/states.npz") as states:
        label = states["label"]
    everything = rows("out/particles.cs")
    assert np.array_equal(everything["uid"], original.uid)
    for number in range(3):
        state = Path(f"out/states/state0{number}")
        assert np.array_equal(rows(state / "particles.cs"), everything[label == number])  # every field, of both files
        group = yaml.safe_load((state / "particles.csg").read_text())
        assert {one["num_items"] for one in group["results"].values()} == {int((label == number).sum())}
        assert {"blob", "ctf", "alignments3D"} <= set(group["results"])
        assert read_particles(state / "particles.csg").n == (label == number).sum()
    record = read_record(Path("out"))
    assert record is not None
    files = record["inputs"]["in_parts"]["files"]
    assert {"J9_005_particles.cs", "J9_passthrough_particles.cs"} <= {Path(one["path"]).name for one in files}
    assert "particles.cs" in Path("out/report.html").read_text()


def test_changed_passthrough_stops_a_continue(job: Path, engine: FakeEngine) -> None:
    train(replace(SETTINGS, in_parts=job), SilentMonitor())
    passthrough = job / "J9_passthrough_particles.cs"
    changed = rows(passthrough)
    changed["blob/psize_A"] *= 1.01
    save(passthrough, changed)
    with pytest.raises(ResumeError, match=r"was begun with J9, which has changed"):
        train(replace(SETTINGS, in_parts=job, epochs=9), SilentMonitor())


def test_a_passthrough_that_came_or_went_is_named(job: Path, engine: FakeEngine) -> None:
    alone, beside = Path("alone/J9_005_particles.cs"), Path("alone/J9_passthrough_particles.cs")
    alone.parent.mkdir()
    write_particles_cs(read_particles(job), alone)
    record = rows(alone)
    save(alone, only(record, "alignments3D", "ctf", "blob"))
    train(replace(SETTINGS, in_parts=alone), SilentMonitor())
    engine.calls.clear()
    place = np.zeros(N, [("uid", "<u8"), ("location/micrograph_uid", "<u8")])
    place["uid"], place["location/micrograph_uid"] = record["uid"], np.arange(N) // 10
    save(beside, place)
    again = replace(SETTINGS, in_parts=alone)
    with pytest.raises(ResumeError, match=r"was begun without alone/J9_passthrough_particles\.cs, .* move it away"):
        train(again, SilentMonitor())
    train(replace(again, o=Path("second")), SilentMonitor())
    beside.rename("gone.cs")
    with pytest.raises(ResumeError, match=r"was begun with alone/J9_passthrough_particles\.cs, .* put it back"):
        train(replace(again, o=Path("second")), SilentMonitor())
    train(again, SilentMonitor())


def test_star_is_returned_where_asked(job: Path, engine: FakeEngine) -> None:
    train(replace(SETTINGS, in_parts=job), SilentMonitor())
    said = io.StringIO()
    train(replace(SETTINGS, in_parts=job, particles_format="star"), Monitor(said))
    assert not list(Path("out").rglob("particles.cs*"))
    table = starfile.read("out/states/state01/particles.star")["particles"]
    assert set(table["cdxState"]) == {1}
    assert {"cdxLatent1", "cdxUid", "rlnAngleRot"} <= set(table.columns)
    for one, name in (("new.cs", "new.cs"), ("new.csg", "new.cs"), ("new.star", "new.star"), ("folder", "folder/p")):
        select(SelectSettings(in_parts=Path("out"), o=Path(one), overwrite=True, state=(1,)), SilentMonitor())
        path = Path(name) if "." in name else Path("folder/particles.cs")
        assert np.array_equal(np.sort(read_particles(path).uid), np.sort(table["cdxUid"].to_numpy(np.uint64)))
    wanted = SelectSettings(in_parts=Path("out"), o=Path("folder2"), state=(1,), particles_format="star")
    select(wanted, SilentMonitor())
    assert Path("folder2/particles.star").is_file()


def test_selection_when_the_job_is_gone(job: Path, engine: FakeEngine) -> None:
    train(replace(SETTINGS, in_parts=job), SilentMonitor())
    expected = rows("out/states/state02/particles.cs")
    shutil.move("J9", "../J9")
    for given in ("out", "out/particles.cs", "out/states/state02/particles.cs", "out/states/state02"):
        select(SelectSettings(in_parts=Path(given), o=Path("again.cs"), overwrite=True, state=(2,)), SilentMonitor())
        assert np.array_equal(rows("again.cs"), expected)


def test_star_particles_as_cs_say_what_is_lost(project: Path, engine: FakeEngine) -> None:
    said = io.StringIO()
    train(replace(SETTINGS, particles_format="cs"), Monitor(said))
    assert "blob/sign is 1" in said.getvalue()
    assert len(rows("out/particles.cs")) == N
    select(SelectSettings(in_parts=Path("out"), o=Path("a.cs"), state=(0,)), Monitor(said))
    assert len(rows("a.cs")) == len(rows("out/states/state00/particles.cs"))


@pytest.mark.parametrize(("given", "written"), [("J9", "particles.cs"), ("star", "particles.star")])
def test_validate_returns_the_format_of_the_input(
    given: str, written: str, job: Path, engine: FakeEngine, project: Path
) -> None:
    if given == "star":
        shutil.move(project.parent / "elsewhere.star", "particles.star")
        given = "particles.star"
    train(replace(SETTINGS, in_parts=Path(given)), SilentMonitor())
    validate(ValidateSettings(in_parts=Path("out"), o=Path("valid"), random_subsets=12), SilentMonitor())
    assert Path("valid/states/state00", written).is_file()


def test_inputs_in_the_result_directory_are_not_overwritten(job: Path, engine: FakeEngine) -> None:
    Path("out").mkdir()
    particles = read_particles("J9")
    for name in ("particles.cs", "particles.star"):
        path = Path("out") / name
        (write_particles_cs if name.endswith(".cs") else write_particles_star)(particles, path)
        before = path.read_bytes()
        with pytest.raises(InputError, match=rf"would overwrite {name}, the input"):
            train(replace(SETTINGS, in_parts=path), SilentMonitor())
        assert path.read_bytes() == before

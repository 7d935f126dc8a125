"""Subsets of original rows, decoded volumes, FSC of two maps."""

from __future__ import annotations

import errno
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starfile
import yaml

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.maps import read_map, write_map
from cryodrgn_ext.jobs.demo import demo
from cryodrgn_ext.jobs.fsc import fsc
from cryodrgn_ext.jobs.select import select
from cryodrgn_ext.jobs.simulate import simulate
from cryodrgn_ext.jobs.train import train
from cryodrgn_ext.jobs.volumes import volumes
from cryodrgn_ext.options.demo import DemoSettings
from cryodrgn_ext.options.fsc import FscSettings
from cryodrgn_ext.options.select import SelectSettings
from cryodrgn_ext.options.simulate import SimulateSettings
from cryodrgn_ext.options.volumes import VolumesSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.results.layout import Layout
from tests.jobs.conftest import BOX, PIXEL_SIZE_A, SETTINGS, N, latents_in
from tests.jobs.fake_engine import FakeEngine
from tests.jobs.test_train import data_rows

LAYOUT = Layout(Path("out"))


def selected(**options: object) -> list[int]:
    """Rows of the input that a selection returns; checks that they are the original ones."""
    settings = SelectSettings(in_parts=Path("out"), o=Path("subset.star"), overwrite=True, star_columns="no", **options)  # type: ignore[arg-type]
    select(settings, SilentMonitor())
    original = data_rows(Path("particles.star"))
    place = {row[2]: i for i, row in enumerate(original)}
    rows = data_rows(Path("subset.star"))
    found = [place[row[2]] for row in rows]
    assert rows == [original[i] for i in found]
    assert found == sorted(found)
    return found


def labels() -> np.ndarray:
    with np.load(LAYOUT.states_table) as arrays:
        return arrays["label"]


def test_states(trained: Path) -> None:
    assert selected(state=(0, 2)) == np.flatnonzero(labels() != 1).tolist()
    assert selected(state=(0, 2), invert=True) == np.flatnonzero(labels() == 1).tolist()


def test_ranges_and_length(trained: Path) -> None:
    z = latents_in(LAYOUT.root)
    inside = (z[:, 0] >= -0.5) & (z[:, 0] <= 1) & (z[:, 1] <= 0.3)
    assert selected(z_range=("z1:-0.5:1", "2::0.3")) == np.flatnonzero(inside).tolist()
    assert selected(z_norm_max=1.0) == np.flatnonzero(np.linalg.norm(z, axis=1) <= 1).tolist()


def test_indices_and_intersections(trained: Path) -> None:
    Path("rows.txt").write_text("5 3 3 17 40\n")
    assert selected(indices=Path("rows.txt")) == [3, 5, 17, 40]
    expected = [row for row in (3, 5, 17, 40) if labels()[row] == 1]
    if expected:
        assert selected(indices=Path("rows.txt"), state=(1,)) == expected


def test_new_clusters(trained: Path) -> None:
    parts = [selected(clusters=5, cluster=(number,)) for number in range(5)]
    assert sorted(row for part in parts for row in part) == list(range(N))


@pytest.mark.parametrize("given", ["out", "out/particles.star", "out/states/state01/particles.star"])
def test_the_result_may_be_named_by_any_of_its_particle_files(trained: Path, given: str) -> None:
    select(SelectSettings(in_parts=Path(given), o=Path("new/dir"), state=(1,)), SilentMonitor())
    table = starfile.read("new/dir/particles.star", always_dict=True)["particles"]
    assert set(table["cdxState"]) == {1}
    assert Path("new/dir/job.yaml").exists()


@pytest.mark.parametrize("given", ["out/states/state01", "out/states/state01/particles.star"])
def test_a_state_given_as_input_stands_for_its_own_particles(trained: Path, given: str) -> None:
    members = np.flatnonzero(labels() == 1)
    Path("rows.txt").write_text(f"{members[0]} {members[1]} {np.flatnonzero(labels() == 2)[0]}\n")
    for invert, expected in ((False, members[:2]), (True, members[2:])):
        settings = SelectSettings(
            in_parts=Path(given), o=Path("s.star"), overwrite=True, indices=Path("rows.txt"), invert=invert
        )
        select(settings, SilentMonitor())
        original = data_rows(Path("particles.star"))
        assert [row[2] for row in data_rows(Path("s.star"))] == [original[i][2] for i in expected]


def without_rows(path: Path, n: int) -> set[str]:
    """Take the first ``n`` rows out of a STAR file, as a user does with an editor; the images that are gone."""
    lines = path.read_text().splitlines(keepends=True)
    gone = [number for number, line in enumerate(lines) if "@" in line][:n]
    path.write_text("".join(line for number, line in enumerate(lines) if number not in set(gone)))
    return {next(word for word in lines[number].split() if "@" in word) for number in gone}


@pytest.mark.parametrize("given", ["out/particles.star", "out/states/state01/particles.star"])
def test_rows_that_the_user_took_out_of_the_given_file_stay_out(trained: Path, given: str) -> None:
    before = {row[2] for row in data_rows(Path(given))}
    gone = without_rows(Path(given), 7)
    select(SelectSettings(in_parts=Path(given), o=Path("s.star"), overwrite=True, z_norm_max=1e9), SilentMonitor())
    assert {row[2] for row in data_rows(Path("s.star"))} == before - gone
    select(SelectSettings(in_parts=Path(given), o=Path("t.star"), state=(0,), invert=True), SilentMonitor())
    original = data_rows(Path("particles.star"))
    outside = {row[2] for row, label in zip(original, labels(), strict=True) if label != 0}
    assert {row[2] for row in data_rows(Path("t.star"))} == (before - gone) & outside


def test_a_file_with_rows_of_nobody_is_refused(trained: Path) -> None:
    path = Path("out/particles.star")
    blocks = starfile.read(path, always_dict=True)
    blocks["particles"].loc[0, ["rlnImageName", "rlnCoordinateX"]] = ["999@other.mrcs", 99999.0]
    starfile.write(blocks, path, overwrite=True)
    with pytest.raises(InputError):
        selected_from(path)


def selected_from(path: Path) -> None:
    """Select from a given file."""
    select(SelectSettings(in_parts=path, o=Path("s.star"), overwrite=True, state=(0,)), SilentMonitor())


def test_results_of_another_job_are_not_overwritten(trained: Path) -> None:
    shutil.copytree("out", "other")
    np.save("z.npy", np.zeros((1, 2), np.float32))
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    for o in ("other", "out/states/state00", "out/states/state00/particles.star", "out/states/state02/new.star"):
        with pytest.raises(InputError, match=r"another (folder|directory)"):
            select(SelectSettings(in_parts=Path("out"), o=Path(o), state=(1,)), SilentMonitor())
    with pytest.raises(InputError, match="holds the results of a train job"):
        volumes(VolumesSettings(in_result=Path("out"), z=Path("z.npy"), o=Path("out")), SilentMonitor())
    with pytest.raises(InputError, match="holds the results of a train job"):
        simulate(SimulateSettings(o=Path("out"), particles=10), SilentMonitor())
    with pytest.raises(InputError, match="holds the results of a train job"):
        demo(DemoSettings(o=Path("out"), particles=100), SilentMonitor())
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_a_relion_project_with_jobs_is_not_simulated_over(project: Path) -> None:
    pipeline = Path("default_pipeline.star")
    pipeline.write_text(re.sub(r"(Counter\s+)1", r"\g<1>42", pipeline.read_text()))
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="is a RELION project with jobs"):
        simulate(SimulateSettings(o=Path(), particles=10), SilentMonitor())
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


def test_the_original_may_be_gone(trained: Path) -> None:
    before = selected(state=(1,))
    text = Path("particles.star").read_text()
    Path("particles.star").unlink()
    select(SelectSettings(in_parts=Path("out"), o=Path("b.star"), state=(1,)), SilentMonitor())
    Path("particles.star").write_text(text)
    original = data_rows(Path("particles.star"))
    assert [row[: len(original[0])] for row in data_rows(Path("b.star"))] == [original[i] for i in before]


def test_without_columns_also_when_the_original_is_gone(trained: Path) -> None:
    original = data_rows(Path("particles.star"))
    Path("particles.star").unlink()
    settings = SelectSettings(in_parts=Path("out"), o=Path("b.star"), state=(1,), star_columns="no")
    select(settings, SilentMonitor())
    assert "cdx" not in Path("b.star").read_text()
    assert data_rows(Path("b.star")) == [original[i] for i in np.flatnonzero(labels() == 1)]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "nothing to select by"),
        ({"state": (9,)}, "there is no state 9"),
        ({"cluster": (1,)}, "--cluster needs --clusters"),
        ({"clusters": 3}, "--clusters needs --cluster"),
        ({"z_range": ("z7:0:1",)}, "z7"),
        ({"z_range": ("z1:50:60",)}, "selects no particles"),
        ({"indices": Path("none.txt")}, "none.txt"),
        ({"o": Path("particles.star"), "state": (1,)}, "never overwritten"),
        ({"o": Path("out"), "state": (1,)}, "never overwritten"),
        ({"in_parts": Path("particles.star"), "state": (1,)}, "does not belong to a result directory"),
        ({"in_parts": Path("nowhere"), "state": (1,)}, "nowhere does not exist"),
    ],
)
def test_wrong_selections_write_nothing(trained: Path, options: dict[str, object], says: str) -> None:
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    with pytest.raises(InputError) as caught:
        select(SelectSettings(**{"in_parts": Path("out"), "o": Path("subset.star"), **options}), SilentMonitor())  # type: ignore[arg-type]
    assert says in str(caught.value)
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_an_unfinished_job_has_nothing_to_select(project: Path, engine: FakeEngine) -> None:
    engine.error = ValueError("broken")
    with pytest.raises(ValueError, match="broken"):
        train(SETTINGS, SilentMonitor())
    with pytest.raises(InputError, match="is not finished"):
        select(SelectSettings(in_parts=Path("out"), o=Path("s.star"), state=(1,)), SilentMonitor())


@pytest.mark.parametrize("form", ["npy", "npz", "txt", "csv"])
def test_volumes_at_given_latents(trained: Path, form: str) -> None:
    z = np.array([[0.0, 0.0], [1.0, -2.0], [0.5, 3.0]], np.float32)
    path = Path(f"z.{form}")
    if form == "npy":
        np.save(path, z)
    elif form == "npz":
        np.savez(path, z=z, other=np.zeros(3))
    else:
        np.savetxt(path, z, delimiter="," if form == "csv" else " ", header="latents")
    result = volumes(VolumesSettings(in_result=Path("out"), z=path, o=Path("vols")), SilentMonitor())
    assert [output.path.name for output in result.outputs if output.path] == [
        "vol_000.mrc",
        "vol_001.mrc",
        "vol_002.mrc",
    ]
    consensus = read_map(LAYOUT.consensus / "map.mrc")
    decoded = read_map("vols/vol_001.mrc")
    np.testing.assert_allclose(decoded.data, 2 * consensus.data, rtol=1e-5, atol=1e-6)
    assert decoded.pixel_size_A == pytest.approx(PIXEL_SIZE_A)


def test_fsc_of_a_map_with_itself_and_with_a_filtered_copy(project: Path, engine: FakeEngine) -> None:
    reference = read_map("reference.mrc").data
    spectrum = np.fft.fftshift(np.fft.fftn(reference))
    axis = np.arange(BOX) - BOX // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2)
    noise = np.fft.fftshift(np.fft.fftn(np.random.default_rng(0).normal(size=reference.shape)))
    write_map(
        "half.mrc", np.fft.ifftn(np.fft.ifftshift(np.where(radius < 6, spectrum, noise))).real, PIXEL_SIZE_A, None
    )
    stream = io.StringIO()
    settings = FscSettings(map1=Path("reference.mrc"), map2=Path("half.mrc"), o=Path("curve.star"))
    fsc(settings, Monitor(stream))
    table = starfile.read("curve.star")
    curve = table["rlnFourierShellCorrelationUnmaskedMaps"].to_numpy()
    assert np.all(curve[1:5] > 0.999)
    assert np.all(np.abs(curve[7:]) < 0.4)
    np.testing.assert_allclose(table["rlnAngstromResolution"][8], BOX * PIXEL_SIZE_A / 8, rtol=1e-4)
    assert "Resolution at FSC = 0.143" in stream.getvalue()
    fsc(replace(settings, map2=Path("reference.mrc"), mask=Path("mask.mrc"), o=None), Monitor(stream))


@pytest.mark.parametrize(("box", "pixel_size_A", "says"), [(16, PIXEL_SIZE_A, "box of"), (BOX, 4.0, "voxels of")])
def test_maps_that_cannot_be_compared(project: Path, box: int, pixel_size_A: float, says: str) -> None:
    write_map("other.mrc", np.ones((box, box, box), np.float32), pixel_size_A, None)
    with pytest.raises(InputError, match=says):
        fsc(FscSettings(map1=Path("reference.mrc"), map2=Path("other.mrc")), SilentMonitor())


def test_a_selection_that_could_not_be_written_is_recorded_as_failed(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "chosen/particles.star")

    monkeypatch.setattr("cryodrgn_ext.jobs.select.write_particles", no_room)
    with pytest.raises(OSError, match="No space left"):
        select(SelectSettings(in_parts=Path("out"), o=Path("chosen"), state=(0,)), SilentMonitor())
    written = yaml.safe_load(Path("chosen/job.yaml").read_text())
    assert written["status"] == "failed"
    assert "the disk is full" in written["results"]["error"]

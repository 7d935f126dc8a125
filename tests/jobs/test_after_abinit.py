"""Select, landscape, trajectory and validate go on from an abinit job with latents, on its particles and its poses."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import adjusted_rand_score

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.fsc import fsc
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.jobs.abinit import abinit
from cryodrgn_ext.jobs.convert import convert
from cryodrgn_ext.jobs.landscape import landscape
from cryodrgn_ext.jobs.select import select
from cryodrgn_ext.jobs.trajectory import trajectory
from cryodrgn_ext.jobs.validate import validate
from cryodrgn_ext.metadata.cs import read_cs
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.metadata.row_matching import match_rows
from cryodrgn_ext.options.abinit import AbinitSettings
from cryodrgn_ext.options.convert import ConvertSettings
from cryodrgn_ext.options.landscape import LandscapeSettings
from cryodrgn_ext.options.select import SelectSettings
from cryodrgn_ext.options.trajectory import TrajectorySettings
from cryodrgn_ext.options.validate import ValidateSettings
from cryodrgn_ext.pose.metrics import pose_errors
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.results.learned_result import read_learned_result
from cryodrgn_ext.simulate import simulate_particles, two_domain_protein, write_relion_project
from tests.jobs import fake_poses
from tests.jobs.test_abinit import POSE_LABELS, table, without
from tests.jobs.test_report_again import check as check_report

N, BOX, PIXEL_SIZE_A = 260, 24, 10.0
#: Poses are found by a stand-in, latents by the engine that the job takes by itself.
ABINIT = AbinitSettings(in_parts=Path("unposed.star"), o=Path("out"), in_3dref=Path("reference.mrc"), zdim=2,
                        volumes=2, device="cpu")  # fmt: skip
STATES = np.arange(N) % 2


@pytest.fixture(scope="module")
def found_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("after_abinit") / "project"
    angle = np.where(STATES == 0, -30.0, 30.0)[:, None]
    particles = simulate_particles(N, motion=two_domain_protein(), box_size=BOX, pixel_size_A=PIXEL_SIZE_A, snr=2.0,
                                   max_shift_px=1.0, seed=1).with_coordinates(angle)  # fmt: skip
    write_relion_project(root, particles)
    without(root / "particles.star", root / "unposed.star", (*POSE_LABELS, "rlnRandomSubset"), {"rlnComment": "mine"})
    np.savez(root / "poses.npz", rotation=particles.rotation, shift_A=particles.shift_px * PIXEL_SIZE_A)
    with pytest.MonkeyPatch.context() as patch:
        fake_poses.install(patch, particles.rotation, particles.shift_px * PIXEL_SIZE_A)
        patch.chdir(root)
        abinit(ABINIT, SilentMonitor())
    return root


@pytest.fixture
def found(found_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project with its finished abinit job, which is the working directory."""
    root = tmp_path / "project"
    shutil.copytree(found_once, root, copy_function=shutil.copy2)
    monkeypatch.chdir(root)
    record = root / "out/job.yaml"
    record.write_text(record.read_text().replace(str(found_once), str(root)))
    return root


@pytest.fixture
def search(found: Path, monkeypatch: pytest.MonkeyPatch) -> fake_poses.FakeSearch:
    """For further abinit jobs, which then write no report."""
    monkeypatch.setattr("cryodrgn_ext.jobs.abinit.write_abinit_reports", lambda *_: None)
    with np.load("poses.npz") as truth:
        return fake_poses.install(monkeypatch, truth["rotation"], truth["shift_A"])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without reports, which take much of the time of a small job."""
    monkeypatch.setattr("cryodrgn_ext.jobs.landscape.write_landscape_reports", lambda *_: None)
    monkeypatch.setattr("cryodrgn_ext.jobs.validate.write_validation_reports", lambda *_: None)


LANDSCAPE = LandscapeSettings(in_parts=Path("out"), o=Path("land"), sketch=40, clusters=2, bootstrap=2, set_apart=False,
                              min_particles=1)  # fmt: skip
VALIDATE = ValidateSettings(in_parts=Path("out"), o=Path("checked"), device="cpu", random_subsets=12)


def assert_subset_with_new_poses(path: Path, rows: np.ndarray) -> None:
    """The user's own rows and columns, and in the place of poses those of the abinit job."""
    labels, chosen = table(path)
    before, returned = table(Path("unposed.star")), table(Path("out/particles.star"))
    assert labels[: len(before[0])] == before[0]
    assert [row[: len(before[0])] for row in chosen] == [before[1][row] for row in rows]
    common = [label for label in returned[0] if not label.startswith("cdx")]
    assert labels[: len(common)] == common
    assert {*POSE_LABELS, "rlnRandomSubset"} <= set(common)
    assert [row[: len(common)] for row in chosen] == [returned[1][row][: len(common)] for row in rows]
    posed = read_particles(path)
    with np.load("poses.npz") as truth:
        errors = pose_errors(
            Poses.of(posed.rotation, posed.shift_A), Poses.of(truth["rotation"][rows], truth["shift_A"][rows])
        )
    assert np.median(errors.degrees) < 2.0  # as found by the stand-in, on the frame of the reference
    assert np.median(errors.shift_px) < 0.2 * PIXEL_SIZE_A  # of lengths in Å here


@pytest.mark.draws
def test_its_report_is_written_again(found: Path) -> None:
    check_report(Path("out"))


def test_select_takes_clusters_of_its_latents(found: Path) -> None:
    settings = SelectSettings(in_parts=Path("out/particles.star"), o=Path("subset.star"), clusters=2, cluster=(1,))
    select(settings, SilentMonitor())
    select(replace(settings, cluster=(0,), in_parts=Path("out"), o=Path("others.star")), SilentMonitor())
    label = np.full(N, -1)
    for number, path in enumerate((Path("others.star"), Path("subset.star"))):
        rows = match_rows(read_particles(path), read_particles("unposed.star", require_poses=False)).rows
        assert_subset_with_new_poses(path, rows)
        assert {"cdxLatent1", "cdxLatent2"} <= set(table(path)[0])
        label[rows] = number
    assert (label >= 0).all()
    assert adjusted_rand_score(STATES, label) > 0.8


def test_landscape_its_states_and_what_follows_from_them(found: Path, quick: None) -> None:
    landscape(LANDSCAPE, SilentMonitor())
    label = np.load("land/states.npz")["label"]
    assert adjusted_rand_score(STATES, label) > 0.8
    rows = np.flatnonzero(label == 0)
    assert_subset_with_new_poses(Path("land/states/state00/particles.star"), rows)
    select(SelectSettings(in_parts=Path("land"), o=Path("first.star"), state=(0,)), SilentMonitor())
    assert_subset_with_new_poses(Path("first.star"), rows)
    said = io.StringIO()
    validate(replace(VALIDATE, in_parts=Path("land")), Monitor(said))
    record = yaml.safe_load(Path("checked/job.yaml").read_text())
    assert [state["verdict"] for state in record["results"]["states"]] == ["distinct", "distinct"]
    assert_subset_with_new_poses(Path("checked/states/state00/particles.star"), rows)
    assert "latents that one model learned" in said.getvalue()
    assert "poses of both halves were found with one model" in said.getvalue()


def test_record_and_report_say_what_single_images_gain(found: Path) -> None:
    results = yaml.safe_load(Path("out/job.yaml").read_text())["results"]
    gained = results["single_images"]
    assert gained["gain_nats"] > 10 * gained["standard_error_nats"] > 0
    assert any("nats higher with the model" in note for note in results["notes"])
    assert "nats higher with the model" in Path("out/report.html").read_text()


def test_the_mask_of_the_map_stands_for_that_of_a_consensus(found: Path) -> None:
    assert read_learned_result(Path("out")).solvent_mask == Path("out/mask.mrc")
    Path("out/mask.mrc").unlink()
    assert read_learned_result(Path("out/particles.star")).solvent_mask is None


def test_validate_reconstructs_the_map_that_was_returned(found: Path) -> None:
    """All particles as one set, as abinit cuts no states: from its poses, since the user's file has none."""
    validate(VALIDATE, SilentMonitor())
    theirs, ours = (torch.from_numpy(read_map(Path(p)).data) for p in ("checked/states/state00/map.mrc", "out/map.mrc"))
    assert fsc(theirs, ours)[1 : BOX // 2 - 1].min() > 0.99
    one, other = (
        torch.from_numpy(read_map(Path(p)).data) for p in ("checked/states/state00/half1.mrc", "out/half1.mrc")
    )
    assert fsc(one, other)[1 : BOX // 2 - 1].min() > 0.99


def test_trajectory_follows_its_latents(found: Path) -> None:
    trajectory(TrajectorySettings(in_parts=Path("out/particles.star"), o=Path("path"), frames=3), SilentMonitor())
    frames = [read_map(Path(f"path/vol_00{i}.mrc")).data for i in range(3)]
    assert np.corrcoef(frames[0].ravel(), frames[2].ravel())[0, 1] < 0.98  # it moves
    mean, whole = np.mean(frames, axis=0), read_map(Path("out/map.mrc")).data
    assert np.corrcoef(mean.ravel(), whole.ravel())[0, 1] > 0.9  # in the frame of the map
    with np.load("out/latents.npz") as latents:
        names = latents["image_name"].tolist()
    near = [line.split() for line in Path("path/nearest_particles.star").read_text().splitlines() if "@" in line]
    assert all(names[int(row[1])] == row[3] for row in near)


def test_particles_of_cryosparc_keep_their_fields(found: Path, search: fake_poses.FakeSearch) -> None:
    convert(ConvertSettings(in_parts=Path("unposed.star"), o=Path("picked.cs")), SilentMonitor())
    abinit(replace(ABINIT, in_parts=Path("picked.cs"), o=Path("of_cs")), SilentMonitor())
    select(SelectSettings(in_parts=Path("of_cs"), o=Path("chosen"), clusters=2, cluster=(0,)), SilentMonitor())
    before, chosen, posed = (read_cs(path) for path in ("picked.cs", "chosen/particles.cs", "of_cs/particles.cs"))
    rows = np.flatnonzero(np.isin(before.uid, chosen.uid))
    assert 0 < len(rows) < N
    for name, values in before.columns.items():
        np.testing.assert_array_equal(chosen.columns[name], values[rows])
    for name in ("pose", "shift", "split"):
        np.testing.assert_array_equal(chosen.columns[f"alignments3D/{name}"],
                                      posed.columns[f"alignments3D/{name}"][rows])  # fmt: skip


def test_results_outside_the_project_still_find_the_images(
    found: Path, search: fake_poses.FakeSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = replace(
        ABINIT, in_parts=found / "unposed.star", in_3dref=found / "reference.mrc", o=tmp_path / "far/result"
    )
    abinit(given, SilentMonitor())
    validate(replace(VALIDATE, in_parts=tmp_path / "far/result", o=tmp_path / "far/checked"), SilentMonitor())
    assert (tmp_path / "far/checked/states/state00/map.mrc").exists()


def test_a_job_without_latents_says_what_to_do(found: Path, search: fake_poses.FakeSearch) -> None:
    abinit(replace(ABINIT, zdim=0), SilentMonitor())
    sentence = r"out has no latents: it is an abinit job without --zdim; train on out/particles\.star first"
    further: tuple[Callable[[], object], ...] = (
        lambda: landscape(LANDSCAPE, SilentMonitor()),
        lambda: trajectory(TrajectorySettings(in_parts=Path("out"), o=Path("path")), SilentMonitor()),
        lambda: select(
            SelectSettings(in_parts=Path("out"), o=Path("x.star"), clusters=2, cluster=(0,)), SilentMonitor()
        ),
    )
    for go_on in further:
        with pytest.raises(InputError, match=sentence):
            go_on()
    with pytest.raises(InputError, match="out has no states: it is an abinit job without --zdim; train on"):
        select(SelectSettings(in_parts=Path("out"), o=Path("x.star"), state=(0,)), SilentMonitor())
    assert not Path("land").exists()
    assert not Path("x.star").exists()
    validate(VALIDATE, SilentMonitor())  # needs none: the map of all particles at full size
    assert (Path("checked/states/state00/map.mrc")).exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"state": (0,)}, "out has no states: abinit cuts none; select by --clusters and --cluster, or run landscape"),
        ({"clusters": 2, "cluster": (7,)}, "there is no cluster 7"),
    ],
)
def test_conditions_that_cannot_be_met(found: Path, change: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        select(SelectSettings(in_parts=Path("out"), o=Path("x.star"), **change), SilentMonitor())  # type: ignore[arg-type]


def test_unfinished_and_mixed_results_are_refused(found: Path) -> None:
    record = Path("out/job.yaml")
    text = record.read_text()
    record.write_text(text.replace("status: finished", "status: running"))
    with pytest.raises(InputError, match="the abinit job in out is not finished: continue it first"):
        landscape(LANDSCAPE, SilentMonitor())
    record.write_text(text)
    lines = Path("out/particles.star").read_text().splitlines(keepends=True)
    first, second = [i for i, line in enumerate(lines) if "@" in line][:2]
    lines[first], lines[second] = lines[second], lines[first]
    Path("out/particles.star").write_text("".join(lines))
    with pytest.raises(InputError, match="name different images from row 1 on"):
        landscape(LANDSCAPE, SilentMonitor())

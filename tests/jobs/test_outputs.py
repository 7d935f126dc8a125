"""Files that are there are not replaced in silence, and what cannot work is said before the first image is read."""

from __future__ import annotations

import errno
import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.maps import write_map
from cryodrgn_ext.images.stacks import ImageStacks
from cryodrgn_ext.jobs.consensus import consensus
from cryodrgn_ext.jobs.convert import convert
from cryodrgn_ext.jobs.export_cryodrgn import export_cryodrgn
from cryodrgn_ext.jobs.fsc import fsc
from cryodrgn_ext.jobs.select import select
from cryodrgn_ext.jobs.train import train
from cryodrgn_ext.jobs.trajectory import trajectory
from cryodrgn_ext.jobs.validate import validate
from cryodrgn_ext.options.consensus import ConsensusSettings
from cryodrgn_ext.options.convert import ConvertSettings
from cryodrgn_ext.options.export_cryodrgn import ExportCryodrgnSettings
from cryodrgn_ext.options.fsc import FscSettings
from cryodrgn_ext.options.select import SelectSettings
from cryodrgn_ext.options.trajectory import TrajectorySettings
from cryodrgn_ext.options.validate import ValidateSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from tests.jobs.conftest import BOX, PIXEL_SIZE_A, SETTINGS, FinishedProject
from tests.jobs.fake_engine import FakeEngine

PRECIOUS = b"not yours\n"


@pytest.mark.parametrize("name", ["x.star", "x.cs", "x.csg"])
def test_convert_keeps_the_file_that_it_replaces_and_says_so(project: Path, name: str) -> None:
    there = Path(name).with_suffix(".csg" if name == "x.cs" else Path(name).suffix)
    there.write_bytes(PRECIOUS)
    settings = ConvertSettings(in_parts=Path("particles.star"), o=Path(name))
    said = io.StringIO()
    convert(settings, Monitor(said))
    kept = there.with_name(f"{there.name}.1~")
    assert kept.read_bytes() == PRECIOUS
    assert there.read_bytes() != PRECIOUS
    assert f"kept as {kept}" in said.getvalue()
    convert(replace(settings, overwrite=True), SilentMonitor())
    assert kept.read_bytes() == PRECIOUS
    assert not there.with_name(f"{there.name}.2~").exists()


def test_no_kept_file_is_ever_replaced(project: Path) -> None:
    contents = [b"first\n", b"second\n", b"third\n"]
    for content in contents:
        Path("x.star").write_bytes(content)
        convert(ConvertSettings(in_parts=Path("particles.star"), o=Path("x.star")), SilentMonitor())
    assert [Path(f"x.star.{number}~").read_bytes() for number in (1, 2, 3)] == contents


def test_a_conversion_that_fails_changes_nothing(project: Path) -> None:
    Path("x.star").write_bytes(PRECIOUS)
    Path("empty.star").write_text("data_\n")
    before = sorted(path.name for path in Path().iterdir())
    with pytest.raises(InputError):
        convert(ConvertSettings(in_parts=Path("empty.star"), o=Path("x.star")), SilentMonitor())
    assert Path("x.star").read_bytes() == PRECIOUS
    assert sorted(path.name for path in Path().iterdir()) == before


def test_a_file_that_cannot_be_kept_stays_and_the_way_out_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    Path("x.star").write_bytes(PRECIOUS)
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(InputError, match=r"cannot be kept as x\.star\.1~ \(no space left.*--overwrite"):
        convert(ConvertSettings(in_parts=Path("particles.star"), o=Path("x.star")), SilentMonitor())
    assert Path("x.star").read_bytes() == PRECIOUS
    assert not Path("x.star.1~").exists()


def test_select_keeps_a_file_of_others_and_renews_its_own(finished: FinishedProject) -> None:
    Path("mine.star").write_bytes(PRECIOUS)
    settings = SelectSettings(in_parts=Path("out"), o=Path("mine.star"), state=(1,))
    select(settings, SilentMonitor())
    assert Path("mine.star.1~").read_bytes() == PRECIOUS
    Path("folder").mkdir()
    Path("folder/particles.star").write_bytes(PRECIOUS)
    select(replace(settings, o=Path("folder")), SilentMonitor())
    assert Path("folder/particles.star.1~").read_bytes() == PRECIOUS
    # A directory of RELION that holds nothing of ours yet, and the same job continued with another state.
    Path("External/job004").mkdir(parents=True)
    Path("External/job004/job.star").write_text("data_job\n")
    select(replace(settings, o=Path("External/job004")), SilentMonitor())
    first = Path("External/job004/particles.star").read_bytes()
    select(replace(settings, o=Path("External/job004"), state=(2,)), SilentMonitor())
    assert Path("External/job004/particles.star").read_bytes() != first
    assert not list(Path("External/job004").glob("*~"))


def test_fsc_keeps_the_file_that_it_replaces(project: Path) -> None:
    Path("curve.star").write_bytes(PRECIOUS)
    settings = FscSettings(map1=Path("reference.mrc"), map2=Path("reference.mrc"), o=Path("curve.star"))
    fsc(settings, SilentMonitor())
    assert Path("curve.star.1~").read_bytes() == PRECIOUS
    assert Path("curve.star").read_bytes() != PRECIOUS


def run_train(folder: Path) -> None:
    train(replace(SETTINGS, o=folder), SilentMonitor())


def run_validate(folder: Path) -> None:
    validate(ValidateSettings(in_parts=Path("out"), o=folder, device="cpu", random_subsets=12), SilentMonitor())


def run_trajectory(folder: Path) -> None:
    trajectory(TrajectorySettings(in_parts=Path("out"), o=folder, frames=3), SilentMonitor())


def run_export(folder: Path) -> None:
    export_cryodrgn(ExportCryodrgnSettings(in_parts=Path("out"), o=folder), SilentMonitor())


@pytest.mark.parametrize(
    ("run", "name"),
    [
        (run_train, "particles.star"), (run_train, "states/state00/map.mrc"), (run_validate, "consensus/map.mrc"),
        (run_trajectory, "vol_017.mrc"), (run_export, "poses.pkl"),
    ],
)  # fmt: skip
def test_files_that_no_job_of_ours_wrote_are_left_alone(
    finished: FinishedProject, engine: FakeEngine, run: Callable[[Path], None], name: str
) -> None:
    there = Path("theirs") / name
    there.parent.mkdir(parents=True)
    there.write_bytes(PRECIOUS)
    with pytest.raises(InputError, match=r"is of no job of cryodrgn-ext and could be replaced: give a new directory"):
        run(Path("theirs"))
    assert there.read_bytes() == PRECIOUS
    assert [path for path in Path("theirs").rglob("*") if path.is_file()] == [there]


@pytest.mark.parametrize(("where", "says"), [("reference.mrc", "reference.mrc is a file"), ("/proc/x", "/proc/x")])
def test_a_directory_that_cannot_be_is_said_at_once(
    project: Path, engine: FakeEngine, where: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageStacks, "read", None)
    with pytest.raises(InputError, match=says):
        train(replace(SETTINGS, o=Path(where)), SilentMonitor())


def ball(radius: float, at: tuple[int, int, int] = (0, 0, 0)) -> np.ndarray:
    axes = [np.arange(BOX) - BOX // 2 - shift for shift in at]
    inside = axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2 < radius**2
    return inside.astype(np.float32)


LATE: dict[str, tuple[dict[str, Any], str]] = {
    "mask of another pixel size": ({"in_mask": "other_pixel.mrc"}, "Å wide"),
    "mask of another box": ({"in_mask": "other_box.mrc"}, "box of 16 voxels"),
    "mask that is a map": ({"in_mask": "reference.mrc"}, "is not a mask"),
    "reference of another pixel size": ({"in_3dref": "other_pixel.mrc"}, "Å wide"),
    "region of another pixel size": ({"focus_mask": "other_pixel.mrc"}, "Å wide"),
    "region outside of the mask": ({"in_mask": "mask.mrc", "focus_mask": "outside.mrc"}, "no voxel in common"),
    "region too small for the box": ({"focus_mask": "dot.mrc", "box": 16}, "the region is too small"),
    "region with a network": ({"focus_mask": "ball.mrc", "engine": "neural"}, "--focus_mask works with --engine sub"),
    "region with a preset": ({"focus_mask": "ball.mrc", "preset": "cryodrgn"}, "--focus_mask works with --engine sub"),
    "too many components": ({"engine": "subspace", "zdim": 60}, "takes 1 to 32 components, not --zdim 60"),
    "no components": ({"engine": "subspace", "zdim": 0}, "takes 1 to 32 components, not --zdim 0"),
    "disc beyond the images": ({"mask_diameter_A": 5000.0}, "exceeds the images"),
    "box beyond the images": ({"box": 64}, "--box is 64"),
    "complex mask": ({"in_mask": "complex.mrc"}, "mode 4"),
}


@pytest.mark.parametrize("name", LATE)
def test_what_cannot_work_is_said_before_an_image_is_read(
    project: Path, engine: FakeEngine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_map("ball.mrc", ball(6), PIXEL_SIZE_A, None)
    write_map("other_pixel.mrc", ball(6), 1.3 * PIXEL_SIZE_A, None)
    write_map("other_box.mrc", np.ones((16, 16, 16), np.float32), PIXEL_SIZE_A, None)
    outside = np.zeros((BOX,) * 3, np.float32)
    outside[:2, :2, :2] = 1
    write_map("outside.mrc", outside, PIXEL_SIZE_A, None)
    dot = np.zeros((BOX,) * 3, np.float32)
    dot[BOX // 2, BOX // 2, BOX // 2] = 0.6
    write_map("dot.mrc", dot, PIXEL_SIZE_A, None)
    raw = bytearray(Path("ball.mrc").read_bytes())
    raw[12:16] = (4).to_bytes(4, "little")
    Path("complex.mrc").write_bytes(bytes(raw))
    change, says = LATE[name]
    given = {key: Path(value) if str(value).endswith(".mrc") else value for key, value in change.items()}
    monkeypatch.setattr(ImageStacks, "read", None)
    said = io.StringIO()
    with pytest.raises(InputError, match=says):
        train(replace(SETTINGS, **given), Monitor(said))  # type: ignore[arg-type]
    assert "Contrast" not in said.getvalue()
    assert not Path("out").exists() or not [path for path in Path("out").rglob("*") if path.is_file()]


@pytest.mark.parametrize("job", ["validate", "consensus"])
def test_masks_of_other_jobs_too(finished: FinishedProject, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_map("other_pixel.mrc", ball(6), 1.3 * PIXEL_SIZE_A, None)
    monkeypatch.setattr(ImageStacks, "read", None)
    mask = Path("other_pixel.mrc")
    settings: Any = {
        "validate": ValidateSettings(in_parts=Path("out"), o=Path("v"), in_mask=mask, device="cpu"),
        "consensus": ConsensusSettings(in_parts=Path("particles.star"), o=Path("v"), in_mask=mask, device="cpu"),
    }[job]
    run: Any = {"validate": validate, "consensus": consensus}[job]
    with pytest.raises(InputError, match="Å wide"):
        run(settings, SilentMonitor())
    assert not Path("v").exists()

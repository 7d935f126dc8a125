"""Jobs on what other programs make: symmetry copies, images behind ``..`` of a link, odd optics numbers, filaments.

One set has all of it; every row carries a word of its own, which says whether the very row came back.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile

from cryodrgn_ext.jobs.compare import compare
from cryodrgn_ext.jobs.landscape import landscape
from cryodrgn_ext.jobs.select import select
from cryodrgn_ext.jobs.train import train
from cryodrgn_ext.jobs.trajectory import trajectory
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.options.compare import CompareSettings
from cryodrgn_ext.options.import_latents import ImportSettings
from cryodrgn_ext.options.landscape import LandscapeSettings
from cryodrgn_ext.options.select import SelectSettings
from cryodrgn_ext.options.trajectory import TrajectorySettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.workflow.import_inputs import read_import_inputs
from tests.blank_pictures import install as install_blank_pictures
from tests.jobs.conftest import SETTINGS, latents_in
from tests.jobs.fake_engine import install

IMAGES, COPIES, TUBE = 60, 2, 10
N = IMAGES * COPIES


def awkward_star(text: str) -> str:
    """Two copies of every image, the second turned by 180 degrees, filaments of ten, optics groups 3 and 7."""
    head, lines = text.replace("\t", " ").split("\ndata_particles", 1)
    group = next(line for line in head.splitlines() if line.split()[1:2] == ["1"] and "#" not in line)
    values = group.split()[2:]
    head = head.replace(group, "\n".join(" ".join([*named, *values]) for named in (("early", "3"), ("late", "7"))))
    labels = [line.split()[0][1:] for line in lines.splitlines() if line.startswith("_")]
    rows = [line.split() for line in lines.splitlines() if "@" in line][:IMAGES]
    column = {label: i for i, label in enumerate(labels)}
    out = []
    for copy in range(COPIES):
        for i, row in enumerate(rows):
            new = list(row)
            new[column["rlnImageName"]] = row[column["rlnImageName"]].replace("@", "@link/../")
            new[column["rlnMicrographName"]] = f"mic{i // 20}.mrc"
            new[column["rlnAngleRot"]] = f"{float(row[column['rlnAngleRot']]) + 180 * copy:.6f}"
            new[column["rlnOpticsGroup"]] = "37"[i % 2]
            new[column["rlnRandomSubset"]] = str(copy + 1)  # parts every image, as auto-refinement of copies does
            out.append(" ".join([*new, str(i % 20 // TUBE + 1), f"row{copy * IMAGES + i:03d}"]))
    labels += ["rlnHelicalTubeID", "rlnComment"]
    table = "\n".join([f"_{label} #{i}" for i, label in enumerate(labels, 1)] + out)
    return f"{head}\ndata_particles\n\nloop_\n{table}\n\n"


@pytest.fixture(scope="module")
def root(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("awkward") / "project"
    shutil.copytree(simulated, root)
    # RELION follows the link before it goes up: the images are in elsewhere/, those of that name here are others.
    (root / "elsewhere/deep").mkdir(parents=True)
    (root / "link").symlink_to("elsewhere/deep")
    stack = next(root.glob("*.mrcs"), None) or next(root.rglob("*.mrcs"))
    moved = root / "elsewhere" / stack.relative_to(root)
    moved.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(stack, moved)
    with mrcfile.open(stack, "r+") as decoy:
        decoy.data[:] = 0
    star = root / "particles.star"
    star.write_text(awkward_star(star.read_text()))
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        install_blank_pictures(patch)
        patch.chdir(root)
        said = io.StringIO()
        train(SETTINGS, Monitor(said))
    (root / "said.txt").write_text(said.getvalue())
    return root


@pytest.fixture(autouse=True)
def here(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(root)
    return tmp_path


def words(star: Path) -> list[str]:
    """The word of every row."""
    return [next(word for word in line.split() if word.startswith("row")) for line in star.read_text().splitlines()
            if "@" in line]  # fmt: skip


def listed(folder: Path, rows: list[int]) -> Path:
    """A STAR file of some rows in an order of its own."""
    text = Path("particles.star").read_text().splitlines()
    data = [i for i, line in enumerate(text) if "@" in line]
    path = folder / "listed.star"
    path.write_text("\n".join([*text[: data[0]], *(text[data[row]] for row in rows), "", ""]))
    return path


SECOND = [IMAGES + i for i in (40, 3, 17, 5, 31, 22, 59, 11, 8, 47, 50, 2)]  # second copies only


def test_what_is_read_and_said() -> None:
    particles = read_particles("particles.star")
    assert particles.stack_paths[0].resolve().parent.name == "elsewhere" or "elsewhere" in str(
        particles.stack_paths[0].resolve()
    )
    assert [group.number for group in particles.optics] == [3, 7]
    said = Path("said.txt").read_text()
    assert f"part {IMAGES} of {IMAGES} images" in said
    assert "so that they are not independent and not used" in said
    assert words(Path("out/particles.star")) == [f"row{i:03d}" for i in range(N)]


def test_select_returns_the_copies_that_are_listed(here: Path) -> None:
    select(SelectSettings(in_parts=Path("out"), o=here / "s.star", indices=listed(here, SECOND)), SilentMonitor())
    assert words(here / "s.star") == [f"row{i:03d}" for i in sorted(SECOND)]
    assert {line.split()[0] for line in (here / "s.star").read_text().splitlines() if " 3 " in line or " 7 " in line}


def test_trajectory_and_landscape_look_at_the_copies_that_are_listed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    monkeypatch.setattr("cryodrgn_ext.jobs.trajectory.write_trajectory_reports", lambda *_: None)
    monkeypatch.setattr("cryodrgn_ext.jobs.landscape.write_landscape_reports", lambda *_: None)
    rows = list(range(IMAGES, N))
    trajectory(TrajectorySettings(in_parts=Path("out"), o=here / "path", frames=3, nearest=4,
                                  indices=listed(here, rows)), SilentMonitor())  # fmt: skip
    near = starfile.read(here / "path/nearest_particles.star")["cdxRow"]
    assert len(near) == 3 * 4
    assert near.min() >= IMAGES
    landscape(LandscapeSettings(in_parts=Path("out"), o=here / "land", sketch=20, clusters=2, bootstrap=2,
                                indices=listed(here, rows)), SilentMonitor())  # fmt: skip
    with np.load(here / "land/landscape.npz") as arrays:
        assert arrays["row"].tolist() == rows
    assert words(here / "land/particles.star") == [f"row{i:03d}" for i in rows]


def test_compare_takes_each_row_for_itself(here: Path) -> None:
    result = compare(CompareSettings(in_results=(Path("out"), Path("out")), o=here / "both"), SilentMonitor())
    assert result.outputs
    assert words(here / "both/particles.star") == [f"row{i:03d}" for i in range(N)]


def test_import_takes_the_latents_that_each_row_carries(here: Path) -> None:
    """Those of the second copies, in an order of their own."""
    text = Path("out/particles.star").read_text().splitlines()
    data = [i for i, line in enumerate(text) if "@" in line]
    chosen = np.random.default_rng(0).permutation(np.arange(IMAGES, N)).tolist()
    Path("carried.star").write_text("\n".join([*text[: data[0]], *(text[data[row]] for row in chosen), "", ""]))
    inputs = read_import_inputs(ImportSettings(in_parts=Path("carried.star"), o=here / "in", states=2, box=16))
    np.testing.assert_allclose(inputs.z, latents_in(Path("out"))[chosen], rtol=1e-5)
    assert inputs.particles.table.text("rlnComment")[inputs.particles.row_id].tolist() == [
        f"row{i:03d}" for i in chosen
    ]

"""The consensus as a job of its own: maps of the truth, symmetry, sharpening, and what is refused."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch
import yaml

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.sharpening import apply_b_factor
from cryodrgn_ext.images.maps import read_map, write_map
from cryodrgn_ext.jobs.consensus import consensus
from cryodrgn_ext.jobs.report import report
from cryodrgn_ext.options.consensus import ConsensusSettings
from cryodrgn_ext.options.report import ReportSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.workflow.job_result import JobResult, OutputKind
from cryodrgn_ext.workflow.sharpened_maps import write_sharpened
from tests.engines.linear_set import correlation
from tests.jobs.conftest import BOX, PIXEL_SIZE_A, N

SETTINGS = ConsensusSettings(in_parts=Path("particles.star"), o=Path("cons"), device="cpu")
FOLDER = Path("cons/consensus")


def run(settings: ConsensusSettings = SETTINGS) -> tuple[JobResult, str]:
    said = io.StringIO()
    return consensus(settings, Monitor(said)), said.getvalue()


def test_map_halves_mask_and_report(project: Path) -> None:
    result, _ = run()
    kinds = [file.kind for file in result.files]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        OutputKind.MAP: 1, OutputKind.HALF_MAP: 1, OutputKind.MASK: 1, OutputKind.PDF: 1,
    }  # fmt: skip
    found = read_map(FOLDER / "map.mrc")
    assert found.pixel_size_A == pytest.approx(PIXEL_SIZE_A)
    truth = read_map(Path("reference.mrc")).data
    assert correlation(found.data, truth) > 0.8
    assert correlation(found.data, truth[::-1]) < 0.8  # not of the other hand
    table = starfile.read(FOLDER / "fsc.star")
    assert set(table.columns) >= {
        "rlnFourierShellCorrelationCorrected", "rlnFourierShellCorrelationUnmaskedMaps",
        "rlnFourierShellCorrelationMaskedMaps",
    }  # fmt: skip
    record = yaml.safe_load(Path("cons/job.yaml").read_text())
    assert record["results"]["particles"] == N
    assert record["results"]["symmetry"] == "C1"
    assert "cryodrgn-ext consensus --in_parts particles.star" in Path("cons/report.html").read_text()
    assert not Path("cons/checkpoint/images").exists()


def test_a_second_run_reconstructs_nothing_again_until_something_changes(project: Path) -> None:
    run()
    before = (FOLDER / "map.mrc").stat().st_mtime_ns
    assert "done before" in run()[1]
    assert (FOLDER / "map.mrc").stat().st_mtime_ns == before
    assert "done before" not in run(replace(SETTINGS, symmetry="C2"))[1]


def test_symmetry_makes_the_map_symmetric(project: Path) -> None:
    run(replace(SETTINGS, symmetry="c2"))
    volume = read_map(FOLDER / "map.mrc").data
    turned = volume.copy()
    turned[:, 1:, 1:] = volume[:, :0:-1, :0:-1]  # about the z axis through voxel D // 2
    inside = np.linalg.norm(np.indices(volume.shape) - BOX // 2, axis=0) < BOX / 2 - 2
    assert correlation(volume[inside], turned[inside]) > 0.999
    assert yaml.safe_load(Path("cons/job.yaml").read_text())["results"]["symmetry"] == "C2"


def test_coarse_maps_are_not_sharpened_and_it_is_said(project: Path) -> None:
    result, said = run()
    assert "not sharpened" in said
    assert not (FOLDER / "sharpened.mrc").exists()
    assert all(file.path.name != "sharpened.mrc" for file in result.files)
    result, said = run(replace(SETTINGS, b_factor=300.0))
    assert "sharpened by the given B-factor of 300 Å² (no Guinier plot beyond 10 Å)" in said
    assert any(file.path.name == "sharpened.mrc" for file in result.files)
    report(ReportSettings(in_result=SETTINGS.o), SilentMonitor())


def half_maps(folder: Path, b_A2: float) -> None:
    folder.mkdir()
    g = torch.Generator().manual_seed(0)
    signal = apply_b_factor(torch.randn(64, 64, 64, generator=g), b_A2, 1.5)
    for number in (1, 2):
        noisy = signal + 0.05 * torch.randn(64, 64, 64, generator=g)
        write_map(folder / f"half{number}.mrc", noisy.numpy(), 1.5, None)


def test_fine_maps_are_freed_of_their_b_factor_or_of_the_given_one(tmp_path: Path) -> None:
    half_maps(tmp_path / "maps", 90.0)
    fit, said = write_sharpened(tmp_path / "maps", np.ones(33), None)
    assert fit is not None
    assert fit.b_factor_A2 == pytest.approx(90, abs=8)
    assert f"{fit.b_factor_A2:.0f} Å²" in said
    automatic = read_map(tmp_path / "maps/sharpened.mrc")
    assert automatic.pixel_size_A == pytest.approx(1.5)
    write_sharpened(tmp_path / "maps", np.ones(33), 0.0)
    plain = read_map(tmp_path / "maps/sharpened.mrc").data
    expected = apply_b_factor(torch.from_numpy(plain), -fit.b_factor_A2, 1.5).numpy()
    assert correlation(automatic.data, expected) > 0.999


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"symmetry": "C0"}, "is not the name of a point group"),
        ({"symmetry": "Q7"}, "is not the name of a point group"),
        ({"box": 400}, "the images have only"),
        ({"in_mask": Path("small.mrc")}, "has a box of 8 voxels"),
        ({"in_parts": Path("absent.star")}, "does not exist"),
        ({"o": Path()}, "never overwritten"),
    ],
)
def test_what_is_refused_before_anything_is_written(project: Path, options: dict[str, object], says: str) -> None:
    with mrcfile.new("small.mrc") as file:
        file.set_data(np.ones((8, 8, 8), np.float32))
    with pytest.raises(InputError, match=says):
        consensus(replace(SETTINGS, **options), SilentMonitor())  # type: ignore[arg-type]
    assert not Path("cons").exists()

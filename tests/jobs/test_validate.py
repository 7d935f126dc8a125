"""The validate job: maps of the original images at full size, own masks, evidence; sets of any kind; going on."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch
import yaml

from cryodrgn_ext.errors import InputError, JobAborted, ResumeError
from cryodrgn_ext.fourier.fsc import corrected_fsc, resolution_A
from cryodrgn_ext.fourier.point_groups import point_group
from cryodrgn_ext.images.dataset import open_images
from cryodrgn_ext.images.maps import read_map, write_map
from cryodrgn_ext.images.preprocessing import PreprocessSettings
from cryodrgn_ext.jobs.convert import convert
from cryodrgn_ext.jobs.train import train
from cryodrgn_ext.jobs.validate import validate
from cryodrgn_ext.metadata.particle_writing import write_particles_cs, write_particles_star
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.options.convert import ConvertSettings
from cryodrgn_ext.options.validate import ValidateSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.states import read_state
from cryodrgn_ext.workflow import job_run
from cryodrgn_ext.workflow.job_result import OutputKind
from tests.jobs.conftest import BOX, PIXEL_SIZE_A, SETTINGS, FinishedProject, N
from tests.jobs.fake_engine import FakeEngine
from tests.jobs.test_train import data_rows
from tests.monitors import RecordingMonitor

CHECKED = Layout(Path("checked"))
VALIDATE = ValidateSettings(in_parts=Path("out"), o=Path("checked"), device="cpu", random_subsets=12)


def labels() -> np.ndarray:
    with np.load("out/states.npz") as arrays:
        return arrays["label"]


def said(settings: ValidateSettings) -> str:
    stream = io.StringIO()
    validate(settings, Monitor(stream))
    return stream.getvalue()


def test_states_are_made_of_the_original_images_at_full_size(finished: FinishedProject) -> None:
    result = validate(VALIDATE, SilentMonitor())
    kinds = [output.kind for output in result.files]
    assert {kind: kinds.count(kind) for kind in OutputKind} == {
        OutputKind.PARTICLES: 3, OutputKind.MAP: 4, OutputKind.HALF_MAP: 4, OutputKind.MASK: 4, OutputKind.PDF: 1,
    }  # fmt: skip
    original = data_rows(Path("particles.star"))
    images = open_images(read_particles("particles.star"), Path("store"), PreprocessSettings(box_size=BOX))
    masks = []
    for number in range(3):
        rows, folder = np.flatnonzero(labels() == number), CHECKED.state(number)
        assert data_rows(folder / "particles.star") == [original[row] for row in rows]
        mask, half1, half2 = (read_map(folder / f"{name}.mrc") for name in ("mask", "half1", "half2"))
        expected = reconstruct_half_maps(images, torch.from_numpy(rows), mask=torch.from_numpy(mask.data))
        for name, wanted in (("half1", expected.half1), ("half2", expected.half2), ("map", expected.map)):
            written = read_map(folder / f"{name}.mrc")
            assert written.data.shape == (BOX,) * 3
            assert written.pixel_size_A == pytest.approx(PIXEL_SIZE_A)
            np.testing.assert_allclose(written.data, wanted, atol=1e-5 * np.abs(wanted).max())
        curves = starfile.read(folder / "fsc.star")
        pair = (torch.from_numpy(half1.data), torch.from_numpy(half2.data), torch.from_numpy(mask.data))
        best = corrected_fsc(*pair)
        band = np.flatnonzero(expected.fsc)
        np.testing.assert_allclose(curves["rlnFourierShellCorrelationCorrected"][band], best[band], atol=2e-4)
        np.testing.assert_allclose(curves["rlnFourierShellCorrelationMaskedMaps"], expected.fsc, atol=1e-5)
        state = read_state(folder)
        assert state is not None
        assert state.resolution_A == pytest.approx(resolution_A(np.array(state.fsc), PIXEL_SIZE_A, BOX))
        assert state.particles == len(rows)
        masks.append(mask.data)
    assert not np.array_equal(masks[0], masks[1]), "each state has a mask of its own"
    record = yaml.safe_load((CHECKED.root / "job.yaml").read_text())
    assert record["status"] == "finished"
    assert record["results"]["box"] == BOX
    # The fake engine's latents are random, and so are its states.
    assert {state["verdict"] for state in record["results"]["states"]} == {"not distinguishable"}
    assert "cryodrgn-ext validate --in_parts out" in CHECKED.report.read_text()
    assert "random subsets" in CHECKED.report.read_text()
    assert not (CHECKED.checkpoint / "images").exists()


def test_a_second_run_does_no_work_again_and_other_sets_are_made_anew(
    finished: FinishedProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(VALIDATE, state=(1,), keep_images=True)
    assert "state 01: " in said(settings)
    assert [path.name for path in CHECKED.states.iterdir()] == ["state01"]
    first = (CHECKED.state(1) / "map.mrc").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(job_run, "open_images", None)
        assert said(settings).count("done before") == 2
    text = said(replace(settings, state=()))
    assert "Reusing the preprocessed images" in text
    assert sorted(path.name for path in CHECKED.states.iterdir()) == ["state00", "state01", "state02"]
    assert (CHECKED.state(1) / "map.mrc").read_bytes() == first


def test_an_aborted_run_goes_on(finished: FinishedProject) -> None:
    settings = replace(VALIDATE, keep_images=True)

    with pytest.raises(JobAborted):
        validate(settings, RecordingMonitor(when=CHECKED.state(0).exists))
    before = (CHECKED.state(0) / "map.mrc").stat().st_mtime_ns
    text = said(settings)
    assert "Consensus by backprojection: done before" in text
    assert (CHECKED.state(0) / "map.mrc").stat().st_mtime_ns == before
    assert yaml.safe_load((CHECKED.root / "job.yaml").read_text())["status"] == "finished"


def test_sets_of_the_users_own(finished: FinishedProject) -> None:
    Path("rows.txt").write_text("\n".join(map(str, range(0, 60))))
    shutil.copy("out/states/state01/particles.star", "mine.star")
    only = np.setdiff1d(np.flatnonzero(labels() == 1), np.arange(60))
    write_particles_star(read_particles("mine.star").subset(np.isin(np.flatnonzero(labels() == 1), only)), "rest.star")
    text = said(replace(VALIDATE, indices=("rows.txt", "rest.star")))
    assert f"rest: {len(only)} particles" in text
    assert "rows: 60 particles" in text
    original = data_rows(Path("particles.star"))
    assert data_rows(CHECKED.state(1) / "particles.star") == [original[row] for row in only]
    with pytest.raises(InputError, match=r"is in rows\.txt and in mine\.star: sets to test must not overlap"):
        validate(replace(VALIDATE, indices=("rows.txt", "mine.star")), SilentMonitor())


def test_everything_works_from_a_cs(project: Path, engine: FakeEngine) -> None:
    convert(ConvertSettings(in_parts=Path("particles.star"), o=Path("particles.cs")), SilentMonitor())
    train(replace(SETTINGS, in_parts=Path("particles.cs")), SilentMonitor())
    validate(replace(VALIDATE, state=(2,)), SilentMonitor())
    uid = read_particles("particles.cs").uid
    assert read_particles(CHECKED.state(2) / "particles.cs").uid.tolist() == uid[labels() == 2].tolist()
    assert (CHECKED.state(2) / "particles.csg").exists()


def test_a_directory_of_a_cryosparc_job_is_an_input(project: Path, engine: FakeEngine) -> None:
    Path("J7").mkdir()
    convert(ConvertSettings(in_parts=Path("particles.star"), o=Path("J7/J7_particles.cs")), SilentMonitor())
    settings = replace(SETTINGS, in_parts=Path("J7"))
    train(settings, SilentMonitor())
    validate(replace(VALIDATE, state=(0,)), SilentMonitor())
    original = read_particles("J7/J7_particles.cs")
    checked = read_particles(CHECKED.state(0) / "particles.cs")
    assert checked.uid.tolist() == original.uid[labels() == 0].tolist()
    Path("J7/J7_particles.csg").unlink()
    write_particles_cs(original.subset(np.arange(100)), "J7/J7_particles.cs")
    with pytest.raises(ResumeError, match="J7, which has changed or is another file"):
        train(settings, SilentMonitor())


def test_homogeneous_result_is_reconstructed_and_not_tested(project: Path, engine: FakeEngine) -> None:
    train(replace(SETTINGS, zdim=0), SilentMonitor())
    assert f"all particles: {N} particles" in said(VALIDATE)
    assert read_state(CHECKED.state(0)).verdict == "not tested"  # type: ignore[union-attr]


def test_a_state_may_be_named_by_its_particles_and_a_mask_given(finished: FinishedProject) -> None:
    write_map(Path("mask.mrc"), read_map(Path("out/consensus/mask.mrc")).data, PIXEL_SIZE_A, None)
    settings = replace(VALIDATE, in_parts=Path("out/states/state01/particles.star"), in_mask=Path("mask.mrc"), box=16)
    assert "full size is --box 20" in said(settings)
    assert [path.name for path in CHECKED.states.iterdir()] == ["state01"]
    mask, common = read_map(CHECKED.state(1) / "mask.mrc").data, read_map(CHECKED.consensus / "mask.mrc").data
    assert mask.shape == (16,) * 3
    np.testing.assert_array_equal(mask, common)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"state": (7,)}, "has no state 7; it has 0, 1, 2"),
        ({"state": (0,), "indices": ("rows.txt",)}, "not both"),
        ({"indices": ("nowhere.txt",)}, "does not exist"),
        ({"indices": ("far.txt",)}, "indices of 120 particles"),
        ({"indices": ("none.txt",)}, "names no particles"),
        ({"indices": ("other.star",)}, "are not in this file"),
        ({"in_mask": Path("out/consensus/map.mrc")}, "is not a mask"),
        ({"box": 17}, "must be even"),
        ({"box": 64}, "only 20 pixels"),
        ({"in_parts": Path("particles.star")}, "does not belong to a result directory"),
        ({"o": Path("out")}, "holds the results of a train job"),
    ],
)
def test_what_cannot_be_validated_is_refused_before_anything_is_written(
    finished: FinishedProject, change: dict[str, object], sentence: str
) -> None:
    Path("rows.txt").write_text("1 2 3")
    Path("far.txt").write_text("1 2 3000")
    Path("none.txt").write_text("")
    Path("other.star").write_text(Path("particles.star").read_text().replace("@", "9@").replace("rlnCoord", "other"))
    with pytest.raises(InputError, match=sentence):
        validate(replace(VALIDATE, **change), SilentMonitor())  # type: ignore[arg-type]
    assert not CHECKED.root.exists()


def test_symmetry_is_imposed_on_all_maps(finished: FinishedProject) -> None:
    settings = replace(VALIDATE, symmetry="d2", state=(0,))
    validate(settings, SilentMonitor())
    images = open_images(read_particles("particles.star"), Path("store"), PreprocessSettings(box_size=BOX))
    for folder, rows in ((CHECKED.state(0), np.flatnonzero(labels() == 0)), (CHECKED.consensus, np.arange(N))):
        expected = reconstruct_half_maps(images, torch.from_numpy(rows), symmetry=point_group("D2")).half2
        found = read_map(folder / "half2.mrc").data
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
        assert np.allclose(np.rot90(found[1:, 1:, 1:], 2, (0, 1)), found[1:, 1:, 1:], atol=1e-4 * found.max())
    results = yaml.safe_load((CHECKED.root / "job.yaml").read_text())["results"]
    assert results["symmetry"] == "D2"
    assert "symmetry D2 imposed" in " ".join(results["notes"])
    assert "Consensus by backprojection: done before." in said(settings)
    assert "Consensus by backprojection ..." in said(replace(settings, symmetry="C1"))


def test_a_symmetry_that_there_is_not_is_refused(finished: FinishedProject) -> None:
    with pytest.raises(InputError, match=r"symmetry 'X7' is not the name of a point group"):
        validate(replace(VALIDATE, symmetry="X7"), SilentMonitor())
    assert not CHECKED.root.exists()

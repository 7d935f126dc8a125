"""The train job around its engine: what it returns, what it refuses, and how it goes on after an end in the middle."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
import yaml

from cryodrgn_ext.errors import InputError, JobAborted, ResumeError
from cryodrgn_ext.images.maps import read_map, write_map
from cryodrgn_ext.jobs.train import train
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.workflow.job_result import OutputKind
from tests.jobs.conftest import BOX, PIXEL_SIZE_A, SETTINGS, FinishedProject, N
from tests.jobs.fake_engine import FakeEngine

LAYOUT = Layout(Path("out"))


def messages(settings: TrainSettings) -> str:
    stream = io.StringIO()
    train(settings, Monitor(stream))
    return stream.getvalue()


def data_rows(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines() if "@" in line]


def test_what_a_job_returns(finished: FinishedProject, engine: FakeEngine) -> None:
    result = train(SETTINGS, SilentMonitor())  # finds everything done, and returns what there is
    kinds = [output.kind for output in result.files]
    assert {kind: kinds.count(kind) for kind in OutputKind} == {
        OutputKind.PARTICLES: 4, OutputKind.MAP: 3 + 4 + 1, OutputKind.HALF_MAP: 4, OutputKind.MASK: 4,
        OutputKind.PDF: 1,
    }  # fmt: skip
    assert all(output.path.is_file() for output in result.files)
    original, returned = data_rows(Path("particles.star")), data_rows(LAYOUT.particles)
    assert [row[: len(original[0])] for row in returned] == original
    labels = [int(row[-1]) for row in returned]
    for state in range(3):
        rows = data_rows(LAYOUT.state(state) / "particles.star")
        assert rows == [row for row, label in zip(returned, labels, strict=True) if label == state]
        assert read_map(LAYOUT.state(state) / "map.mrc").pixel_size_A == pytest.approx(PIXEL_SIZE_A)
    with np.load(LAYOUT.latents) as arrays:
        assert arrays["z"].shape == (N, 2)
        np.testing.assert_array_equal(arrays["uid"], read_particles("particles.star").uid)
    record = yaml.safe_load((LAYOUT.root / "job.yaml").read_text())
    assert record["status"] == "finished"
    assert record["settings"]["zdim"] == 2
    assert record["inputs"]["in_parts"]["particles"] == N
    assert [state["particles"] for state in record["results"]["states"]] == np.bincount(labels).tolist()
    assert len(np.loadtxt(LAYOUT.volumes / "z_values.txt")) == 4
    assert "cryodrgn-ext train --in_parts particles.star" in LAYOUT.report.read_text()
    assert engine.calls == []


def test_a_second_run_does_no_work_again(finished: FinishedProject, engine: FakeEngine) -> None:
    said = messages(SETTINGS)
    assert engine.calls == []
    assert said.count("done before") == 6


def test_other_states_are_cut_without_training_again(finished: FinishedProject, engine: FakeEngine) -> None:
    said = messages(replace(SETTINGS, states=2))
    assert engine.calls == []
    assert "Volumes along the latent space: done before" in said
    assert sorted(path.name for path in LAYOUT.states.iterdir()) == ["state00", "state01"]
    assert {row[-1] for row in data_rows(LAYOUT.particles)} == {"0", "1"}


def test_more_epochs_go_on_training(project: Path, engine: FakeEngine) -> None:
    train(replace(SETTINGS, epochs=3), SilentMonitor())
    said = messages(replace(SETTINGS, epochs=5))
    assert [call["epochs"] for call in engine.calls] == [3, 5]
    assert "Consensus by backprojection: done before" in said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"zdim": 3}, "--zdim was 2"),
        ({"seed": 5}, "--seed was 0"),
        ({"box": 16}, "--box was None"),
        ({"contrast": "black"}, "--contrast was auto"),
        ({"symmetry": "C2"}, "--symmetry was C1"),
        ({"in_mask": Path("mask.mrc")}, "--in_mask is another"),
    ],
)
def test_another_training_is_refused_once_it_has_begun(
    finished: FinishedProject, engine: FakeEngine, change: dict[str, object], says: str
) -> None:
    with pytest.raises(ResumeError) as caught:
        train(replace(SETTINGS, **change), SilentMonitor())  # type: ignore[arg-type]
    assert says in str(caught.value)
    assert engine.calls == []


def test_other_particles_are_refused(finished: FinishedProject, engine: FakeEngine) -> None:
    text = Path("particles.star").read_text()
    Path("particles.star").write_text(text.replace("opticsGroup1", "renamedGroup"))
    with pytest.raises(ResumeError, match="has changed or is another file"):
        train(SETTINGS, SilentMonitor())


def test_an_aborted_training_goes_on_without_a_new_consensus(project: Path, engine: FakeEngine) -> None:
    engine.error = JobAborted("stop")
    with pytest.raises(JobAborted):
        train(SETTINGS, SilentMonitor())
    assert yaml.safe_load((LAYOUT.root / "job.yaml").read_text())["status"] == "aborted"
    engine.error = None
    said = messages(SETTINGS)
    assert "Reusing the preprocessed images" in said
    assert "Consensus by backprojection: done before" in said
    assert len(engine.calls) == 2


def test_lost_results_are_made_again(finished: FinishedProject, engine: FakeEngine) -> None:
    lost = LAYOUT.state(1) / "particles.star"
    before = lost.read_text()
    lost.unlink()
    (LAYOUT.root / ".x.abc.partial.mrc").touch()
    train(SETTINGS, SilentMonitor())
    assert lost.read_text() == before
    assert not list(LAYOUT.root.glob(".x*"))
    assert engine.calls == []


def test_a_homogeneous_reconstruction_has_one_structure_and_no_latents(project: Path, engine: FakeEngine) -> None:
    result = train(replace(SETTINGS, zdim=0), SilentMonitor())
    assert not LAYOUT.latents.exists()
    assert Path("particles.star").read_text() == LAYOUT.particles.read_text()
    assert [path.name for path in LAYOUT.volumes.glob("*.mrc")] == ["vol_000.mrc"]
    assert [path.name for path in LAYOUT.states.iterdir()] == ["state00"]
    assert "Homogeneous" in LAYOUT.report.read_text()
    assert OutputKind.PDF in [output.kind for output in result.files]


@pytest.mark.parametrize(("choice", "expected"), [("yes", True), ("no", False), ("auto", True)])
def test_our_columns_can_be_left_out(
    finished: FinishedProject, engine: FakeEngine, choice: str, expected: bool
) -> None:
    train(replace(SETTINGS, star_columns=choice), SilentMonitor())
    assert ("_cdxState" in LAYOUT.particles.read_text()) is expected


def test_relion_3_0_files_come_back_without_our_columns(project: Path, engine: FakeEngine) -> None:
    write_relion_3_0(Path("particles.star"), Path("old.star"))
    train(replace(SETTINGS, in_parts=Path("old.star")), SilentMonitor())
    assert LAYOUT.particles.read_text() == Path("old.star").read_text()


def write_relion_3_0(source: Path, target: Path) -> None:
    """The same particles as RELION 3.0 writes them: no optics, origins in pixels."""
    particles = read_particles(source)
    columns = ["rlnImageName", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginX", "rlnOriginY", "rlnDefocusU",
               "rlnDefocusV", "rlnDefocusAngle", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast",
               "rlnMagnification", "rlnDetectorPixelSize", "rlnRandomSubset"]  # fmt: skip
    lines = ["", "data_", "", "loop_", *(f"_{name} #{i}" for i, name in enumerate(columns, 1))]
    for i in range(particles.n):
        numbers = [*particles.euler_deg[i], *(-particles.shift_A[i] / PIXEL_SIZE_A), particles.ctf.defocus_u_A[i],
                   particles.ctf.defocus_v_A[i], np.degrees(particles.ctf.defocus_angle_rad[i]), 300, 2.7, 0.1,
                   10000, PIXEL_SIZE_A]  # fmt: skip
        row = [particles.image_name[i], *(f"{x:.6f}" for x in numbers), str(particles.half_set[i])]
        lines.append(" ".join(row))
    target.write_text("\n".join(lines) + "\n\n")


def test_the_users_mask_and_map_are_used(project: Path, engine: FakeEngine) -> None:
    said = messages(replace(SETTINGS, in_mask=Path("mask.mrc"), in_3dref=Path("reference.mrc"), box=16))
    assert "agrees with our consensus" in said
    mask = read_map(LAYOUT.consensus / "mask.mrc").data
    assert mask.shape == (16, 16, 16)
    assert mask.sum() * (BOX / 16) ** 3 == pytest.approx(read_map("mask.mrc").data.sum(), rel=0.05)


def test_symmetry_is_imposed_on_consensus_and_states(project: Path, engine: FakeEngine) -> None:
    said = messages(replace(SETTINGS, symmetry="C2"))
    assert "symmetry C2 imposed" in said
    for folder in (LAYOUT.consensus, LAYOUT.state(0), LAYOUT.state(1)):
        found = read_map(folder / "half1.mrc").data[1:, 1:, 1:]  # about voxel D // 2
        assert np.allclose(np.rot90(found, 2, (1, 2)), found, atol=1e-4 * found.max())
        assert not np.allclose(np.rot90(found, 2, (0, 1)), found, atol=0.1 * found.max())


def test_a_map_that_does_not_agree_is_said(project: Path, engine: FakeEngine) -> None:
    data = read_map("reference.mrc").data
    write_map("mirror.mrc", np.ascontiguousarray(np.roll(data[::-1], 7, axis=1)), PIXEL_SIZE_A, None)
    assert "does not agree with our consensus" in messages(replace(SETTINGS, in_3dref=Path("mirror.mrc")))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"in_parts": Path("nowhere.star")}, "nowhere.star"),
        ({"box": 64}, "--box is 64, but the images have only 20 pixels"),
        ({"box": 17}, "--box must be even"),
        ({"states": 100}, "too few to learn from"),
        ({"in_mask": Path("reference.mrc")}, "is not a mask"),
        ({"in_mask": Path("small.mrc")}, "box of 16 voxels"),
        ({"in_3dref": Path("small.mrc")}, "box of 16 voxels"),
        ({"in_3dref": Path("particles.star")}, "particles.star"),
        ({"mask_diameter_A": 5000.0}, "5000"),
        ({"device": "cuda"}, "cuda"),
        ({"symmetry": "C0"}, "symmetry 'C0' is not the name of a point group"),
    ],
)
def test_wrong_inputs_are_refused_and_leave_nothing(
    project: Path, engine: FakeEngine, change: dict[str, object], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    write_map("small.mrc", np.ones((16, 16, 16), np.float32), PIXEL_SIZE_A, None)
    star = starfile.read("particles.star", always_dict=True)
    half = star["particles"].query("rlnRandomSubset == 2")
    starfile.write({"optics": star["optics"], "particles": half}, "half.star")
    with pytest.raises(InputError) as caught:
        train(replace(SETTINGS, **change), SilentMonitor())  # type: ignore[arg-type]
    assert says in str(caught.value)
    assert not [path for path in Path("out").rglob("*") if path.is_file()]
    assert engine.calls == []


def test_inputs_are_never_modified(simulated: Path, finished: FinishedProject) -> None:
    before = {path.relative_to(simulated): path.read_bytes() for path in simulated.rglob("*") if path.is_file()}
    assert {path: (finished.root / path).read_bytes() for path in before} == before


def test_evidence_of_every_state_is_recorded(finished: FinishedProject) -> None:
    for state in range(3):
        description = json.loads((LAYOUT.state(state) / "state.json").read_text())
        assert description["verdict"] in ("distinct", "not distinguishable", "not tested")
        assert len(description["fsc"]) == BOX // 2 + 1
        assert description["conclusion"]["claim"] in ("not shown", "not tested", "an artefact")
    # The fake's latents are random numbers: no state can differ from random subsets.
    assert "show no heterogeneity" in finished.said
    results = yaml.safe_load((LAYOUT.root / "job.yaml").read_text())["results"]
    assert results["found"] == results["notes"][0], "what was found is said before all warnings"
    assert results["found"].startswith("Not shown: none of 3 states")
    report = LAYOUT.report.read_text()
    assert report.index(results["found"]) < report.index("What states and latents go with")
    explained = {one["name"]: one for one in results["explained_by"]}
    assert {"defocus", "scale"} <= set(explained)
    assert all(one["of_latents"] < 0.2 for one in explained.values())


def test_states_too_small_to_test_are_not_called_alike(project: Path, engine: FakeEngine) -> None:
    lines = Path("particles.star").read_text().splitlines(keepends=True)
    images = [line for line in lines if "@" in line]
    Path("few.star").write_text("".join([line for line in lines if line not in images[30:]]))
    said = messages(replace(SETTINGS, in_parts=Path("few.star"), o=Path("few")))
    assert "Not tested: no state could be tested" in said
    assert "show no heterogeneity" not in said


def test_warnings_are_in_the_report_of_every_run(project: Path, engine: FakeEngine) -> None:
    with mrcfile.open("Particles/particles.mrcs", "r+") as stack:
        stack.data[...] *= -1
    lines = Path("particles.star").read_text()
    number = int(re.search(r"_rlnRandomSubset #(\d+)", lines)[1]) - 1  # type: ignore[index]
    table = [line.split() for line in lines.splitlines() if "@" in line]
    for row in table:
        row[number] = "0"
    head = lines[: lines.index("\n", lines.index("_rlnRandomSubset")) + 1]
    Path("black.star").write_text(head + "\n".join(" ".join(row) for row in table) + "\n")
    for _ in range(2):
        messages(replace(SETTINGS, in_parts=Path("black.star")))
        report = LAYOUT.report.read_text()
        assert "particles are black in the images" in report
        assert "have no half-sets" in report


def test_columns_of_an_earlier_job_are_not_mixed_with_ours(finished: FinishedProject, engine: FakeEngine) -> None:
    settings = replace(SETTINGS, in_parts=LAYOUT.particles, o=Path("second"), zdim=1)
    train(settings, SilentMonitor())
    table = starfile.read("second/particles.star", always_dict=True)["particles"]
    assert [name for name in table.columns if name.startswith("cdx")] == ["cdxLatent1", "cdxState"]
    original = data_rows(Path("particles.star"))
    assert [row[: len(original[0])] for row in data_rows(Path("second/particles.star"))] == original
    with np.load("second/latents.npz") as arrays:
        np.testing.assert_allclose(table["cdxLatent1"], arrays["z"][:, 0], rtol=1e-5, atol=1e-6)


def test_the_commonest_optics_group_sets_box_and_mask(project: Path, engine: FakeEngine) -> None:
    """Two thirds of the particles have a smaller box than the others: the model, and maps given, have theirs."""
    with mrcfile.open("Particles/particles.mrcs") as stack:
        small = stack.data[40:, 2:-2, 2:-2].copy()
    with mrcfile.new("Particles/small.mrcs") as stack:
        stack.set_data(small)
    star = starfile.read("particles.star", always_dict=True)
    optics, particles = star["optics"], star["particles"]
    optics = pd.concat([optics, optics.assign(rlnOpticsGroup=2, rlnImageSize=BOX - 4)])
    particles.loc[40:, "rlnOpticsGroup"] = 2
    particles.loc[40:, "rlnImageName"] = [f"{i + 1:06d}@Particles/small.mrcs" for i in range(N - 40)]
    starfile.write({"optics": optics, "particles": particles}, "mixed.star")
    mask = read_map("mask.mrc").data
    write_map("small_mask.mrc", mask[2:-2, 2:-2, 2:-2].copy(), PIXEL_SIZE_A, None)
    train(replace(SETTINGS, in_parts=Path("mixed.star"), in_mask=Path("small_mask.mrc")), SilentMonitor())
    assert read_map(LAYOUT.consensus / "map.mrc").data.shape == (BOX - 4,) * 3
    wrong = replace(SETTINGS, in_parts=Path("mixed.star"), in_mask=Path("mask.mrc"), o=Path("wrong"))
    with pytest.raises(InputError, match=f"box of {BOX} voxels, but the particles have {BOX - 4}"):
        train(wrong, SilentMonitor())

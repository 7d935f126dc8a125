"""The abinit job around its search: the user's particles return with poses, in the frame and hand of the map."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch
import yaml

from cryodrgn_ext.errors import InputError, JobAborted, ResumeError
from cryodrgn_ext.fourier.fsc import fsc
from cryodrgn_ext.fourier.shells import half_volume_norm
from cryodrgn_ext.images.maps import read_map, write_map
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.jobs.abinit import abinit
from cryodrgn_ext.jobs.convert import convert
from cryodrgn_ext.metadata.cs import read_cs
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.metadata.poses import rotation_from_euler
from cryodrgn_ext.options.abinit import AbinitSettings
from cryodrgn_ext.options.convert import ConvertSettings
from cryodrgn_ext.pose.coordinate_transform import CoordinateTransform
from cryodrgn_ext.pose.metrics import align_poses, pose_errors
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.results.pose_table import PoseTable
from cryodrgn_ext.simulate import simulate_particles, two_domain_protein, write_relion_project
from cryodrgn_ext.workflow.job_result import OutputKind
from tests.jobs import fake_engine, fake_poses
from tests.jobs.fake_poses import ELSEWHERE, FakeSearch
from tests.map_labels import label_of, unlabelled
from tests.monitors import said_by

N, BOX, PIXEL_SIZE_A = 240, 32, 8.0
OUT = Path("out")
SETTINGS = AbinitSettings(in_parts=Path("unposed.star"), o=OUT, device="cpu")
ALIGNED = replace(SETTINGS, in_3dref=Path("low.mrc"))
POSE_LABELS = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")


@dataclass(frozen=True)
class Finished:
    """A project with a finished job that was aligned to a reference, the truth, and what the run said."""

    root: Path
    rotation: np.ndarray
    shift_A: np.ndarray
    said: str


def run(settings: AbinitSettings) -> str:
    return said_by(abinit, settings)


def table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Labels and rows of the particles of a STAR file."""
    text = path.read_text().split("data_particles" if "data_particles" in path.read_text() else "data_")[-1]
    return re.findall(r"^_(\w+)", text, re.MULTILINE), [line.split() for line in text.splitlines() if "@" in line]


def without(source: Path, target: Path, labels: tuple[str, ...], more: dict[str, str] | None = None) -> None:
    """The same STAR file without some columns, and with constant ones."""
    head = source.read_text().split("data_particles")[0]
    names, rows = table(source)
    kept = [i for i, name in enumerate(names) if name not in labels]
    more = more or {}
    lines = [f"_{name} #{i}" for i, name in enumerate([*(names[k] for k in kept), *more], 1)]
    body = [" ".join([*(row[k] for k in kept), *more.values()]) for row in rows]
    target.write_text("\n".join([f"{head}data_particles", "", "loop_", *lines, *body, "", ""]))


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = tmp_path_factory.mktemp("abinit") / "project"
    particles = simulate_particles(N, motion=two_domain_protein(0, 0.0), box_size=BOX, pixel_size_A=PIXEL_SIZE_A,
                                   snr=1.0, max_shift_px=2.0, seed=1)  # fmt: skip
    write_relion_project(root, particles)
    without(root / "particles.star", root / "unposed.star", (*POSE_LABELS, "rlnRandomSubset"))
    reference = read_map(root / "reference.mrc")
    spectrum = torch.fft.rfftn(torch.from_numpy(reference.data)) * (half_volume_norm(BOX) <= 8)
    small = torch.fft.irfftn(spectrum, s=(BOX,) * 3)[2:-2, 2:-2, 2:-2].numpy()  # another box than the images
    write_map(root / "low.mrc", small, PIXEL_SIZE_A, None)
    shift_A = particles.shift_px * PIXEL_SIZE_A
    with pytest.MonkeyPatch.context() as patch:
        fake_poses.install(patch, particles.rotation, shift_A)
        patch.chdir(root)
        said = run(ALIGNED)
    return Finished(root, particles.rotation, shift_A, said)


@pytest.fixture
def finished(finished_once: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Finished:
    """A copy of it, which is the working directory."""
    root = tmp_path / "project"
    shutil.copytree(finished_once.root, root, copy_function=shutil.copy2)
    # Stacks are known by their absolute paths: leave the preprocessed images to be found.
    monkeypatch.chdir(root)
    return replace(finished_once, root=root)


@pytest.fixture
def search(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> FakeSearch:
    return fake_poses.install(monkeypatch, finished.rotation, finished.shift_A)


@pytest.fixture
def fresh(finished: Finished) -> None:
    shutil.rmtree(OUT)


def test_every_map_says_how_many_particles_it_is_made_of(finished: Finished) -> None:
    assert unlabelled(OUT) == []
    assert (label_of(OUT / "map.mrc") or "").startswith(f"RECONSTRUCTED from {N} particles")


def test_poses_return_in_the_frame_and_hand_of_the_reference(finished: Finished) -> None:
    """The search found them turned, shifted and mirrored; what is returned are the true ones, in RELION's columns."""
    returned = read_particles(OUT / "particles.star")
    errors = pose_errors(Poses.of(returned.rotation, returned.shift_A), Poses.of(finished.rotation, finished.shift_A))
    assert np.median(errors.degrees) < 1.0
    assert np.median(errors.shift_px) < 0.15 * PIXEL_SIZE_A  # of lengths in Å here
    names, rows = table(OUT / "particles.star")
    angles = np.array([[float(row[names.index(label)]) for label in POSE_LABELS] for row in rows])
    np.testing.assert_allclose(rotation_from_euler(angles[:, :3]), returned.rotation, atol=1e-9)
    np.testing.assert_allclose(-angles[:, 3:], returned.shift_A, atol=1e-9)
    assert "has its hand" in finished.said
    assert "agrees with --in_3dref to" in finished.said


def test_every_row_and_column_of_the_user_stays(finished: Finished) -> None:
    before, after = table(Path("unposed.star")), table(OUT / "particles.star")
    assert after[0][: len(before[0])] == before[0]
    assert after[0][len(before[0]) :] == [*POSE_LABELS, "rlnRandomSubset"]
    assert [row[: len(before[0])] for row in after[1]] == before[1]
    halves = np.array([int(row[-1]) for row in after[1]])
    assert np.bincount(halves).tolist() == [0, N // 2, N // 2]
    assert Path("unposed.star").read_text().split("data_particles")[0] == (
        OUT / "particles.star"
    ).read_text().split("data_particles")[0]  # fmt: skip


def test_map_and_halves_are_those_of_the_returned_particles(finished: Finished) -> None:
    """Reconstructed again from the returned STAR alone, halves by rlnRandomSubset, and like the truth."""
    from cryodrgn_ext.images.dataset import open_images
    from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps

    again = reconstruct_half_maps(open_images(read_particles(OUT / "particles.star"), Path("store")))
    for name, data in (("half1.mrc", again.half1), ("half2.mrc", again.half2)):
        half = read_map(OUT / name)
        assert half.pixel_size_A == pytest.approx(PIXEL_SIZE_A)
        assert fsc(torch.from_numpy(half.data), torch.from_numpy(data))[1:15].min() > 0.999
    ours, truth = (torch.from_numpy(read_map(path).data) for path in (OUT / "map.mrc", Path("reference.mrc")))
    mask = torch.from_numpy(read_map(OUT / "mask.mrc").data)
    assert fsc(ours, truth, mask)[1:9].min() > 0.8
    curve = starfile.read(OUT / "fsc.star").to_numpy()
    assert curve.shape == (BOX // 2 + 1, 4)
    first, second = (torch.from_numpy(read_map(OUT / f"half{i}.mrc").data) for i in (1, 2))
    np.testing.assert_allclose(curve[1:15, 3], fsc(first, second, mask)[1:15].tolist(), atol=1e-5)


def test_what_a_job_returns(finished: Finished, search: FakeSearch) -> None:
    result = abinit(ALIGNED, SilentMonitor())
    assert search.calls == []
    kinds = {output.path.name: output.kind for output in result.files}
    assert kinds == {
        "particles.star": OutputKind.PARTICLES, "map.mrc": OutputKind.MAP, "half1.mrc": OutputKind.HALF_MAP,
        "mask.mrc": OutputKind.MASK, "logfile.pdf": OutputKind.PDF,
    }  # fmt: skip
    assert all(output.path.is_file() for output in result.files)
    record = yaml.safe_load((OUT / "job.yaml").read_text())
    assert (record["job"], record["status"]) == ("abinit", "finished")
    assert record["results"]["log_likelihood_of_starts"] == [20.0, 27.5, 26.0]
    assert record["results"]["mirrored"] is True
    report = (OUT / "report.html").read_text()
    assert "cryodrgn-ext abinit --in_parts unposed.star" in report
    assert "Directions of view" in report
    assert "other hand" in report
    poses = PoseTable.read(OUT / "poses.npz")
    np.testing.assert_allclose(poses.rotation, read_particles(OUT / "particles.star").rotation, atol=1e-6)


def test_search_is_given_particles_without_poses(finished: Finished, search: FakeSearch, fresh: None) -> None:
    said = run(replace(SETTINGS, in_parts=Path("particles.star"), max_shift_A=24.0))
    (call,) = search.calls
    assert call["max_shift_px"] == 3.0
    np.testing.assert_array_equal(call["rotation"], np.broadcast_to(np.eye(3), (N, 3, 3)))
    assert "The orientations in particles.star are ignored" in said
    before, after = table(Path("particles.star")), table(OUT / "particles.star")
    assert before[0] == after[0]  # columns are replaced where they were
    changed = {*POSE_LABELS}
    keep = [i for i, name in enumerate(before[0]) if name not in changed]
    assert [[row[i] for i in keep] for row in before[1]] == [[row[i] for i in keep] for row in after[1]]
    place = before[0].index("rlnAngleRot")
    assert [row[place] for row in before[1]] != [row[place] for row in after[1]]


def test_without_a_reference_the_map_is_centred_and_the_hand_is_an_option(
    finished: Finished, search: FakeSearch, fresh: None
) -> None:
    said = run(SETTINGS)
    assert "as it was found" in said
    first = read_particles(OUT / "particles.star")
    centres = [centre(read_map(OUT / "map.mrc").data)]
    second_said = run(replace(SETTINGS, flip_hand=True))
    assert "Poses from nothing: done before" in second_said
    assert len(search.calls) == 1
    second = read_particles(OUT / "particles.star")
    centres.append(centre(read_map(OUT / "map.mrc").data))
    assert np.abs(centres).max() < 0.7  # 1.2 as the stand-in gives it
    for returned, mirrored in ((first, True), (second, False)):  # against the truth: the search's hand is the other
        found = align_poses(
            Poses.of(returned.rotation, returned.shift_A), Poses.of(finished.rotation, finished.shift_A)
        )
        assert found.transform.mirrored is mirrored
        assert np.median(found.errors.degrees) < 1e-3
        assert np.median(found.errors.shift_px) < 1e-3
    flipped = CoordinateTransform.identity(mirrored=True).poses(Poses.of(first.rotation, first.shift_A)).numpy()
    np.testing.assert_allclose(flipped[0], second.rotation, atol=1e-6)
    np.testing.assert_allclose(flipped[1], second.shift_A, atol=1e-3)


def centre(volume: np.ndarray) -> np.ndarray:
    dense = np.where(volume > 0.25 * np.percentile(volume, 99.99), volume, 0)
    return np.array([np.average(grid, weights=dense) for grid in np.indices(volume.shape) - len(volume) // 2])


def test_warnings_of_the_search_are_in_record_and_report_and_survive_a_continue(
    finished: Finished, search: FakeSearch, fresh: None
) -> None:
    search.warning = "Warning: None of the random initialisations agree: the map may be wrong."
    for _ in range(2):
        assert search.warning in run(SETTINGS)
        assert search.warning in yaml.safe_load((OUT / "job.yaml").read_text())["results"]["notes"]
        assert search.warning in (OUT / "report.html").read_text()
    assert len(search.calls) == 1  # the second run found the poses done


def test_an_aborted_search_goes_on(finished: Finished, search: FakeSearch, fresh: None) -> None:
    search.error = JobAborted("stop")
    with pytest.raises(JobAborted):
        abinit(SETTINGS, SilentMonitor())
    assert yaml.safe_load((OUT / "job.yaml").read_text())["status"] == "aborted"
    search.error = None
    assert "Reusing the preprocessed images" in run(SETTINGS)
    assert len(search.calls) == 2
    said = run(SETTINGS)
    assert len(search.calls) == 2
    assert said.count("done before") == 4
    (OUT / "half2.mrc").unlink()
    assert run(SETTINGS).count("done before") == 3
    assert (OUT / "half2.mrc").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [({"seed": 5}, "--seed was 0"), ({"box": 16}, "--box was None"), ({"starts": 9}, "--starts was 3"),
     ({"max_shift_A": 9.0}, "--max_shift_A was None"), ({"search": "branch_and_bound"}, "--search was exhaustive")],
)  # fmt: skip
def test_another_search_is_refused_once_it_has_begun(
    finished: Finished, search: FakeSearch, change: dict[str, object], says: str
) -> None:
    with pytest.raises(ResumeError) as caught:
        abinit(replace(ALIGNED, **change), SilentMonitor())  # type: ignore[arg-type]
    assert says in str(caught.value)
    assert search.calls == []


def test_other_particles_are_refused(finished: Finished, search: FakeSearch) -> None:
    Path("unposed.star").write_text(Path("unposed.star").read_text().replace("opticsGroup1", "renamedGroup"))
    with pytest.raises(ResumeError, match="has changed or is another file"):
        abinit(ALIGNED, SilentMonitor())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"in_parts": Path("nowhere.star")}, "nowhere.star"),
        ({"in_parts": Path("few.star")}, "has 12 particles, too few"),
        ({"box": 64}, "--box is 64, but the images have only 32 pixels"),
        ({"box": 17}, "--box must be even"),
        ({"max_shift_A": 200.0}, "more than half of the images"),
        ({"in_3dref": Path("low.mrc"), "flip_hand": True}, "the reference decides the hand"),
        ({"in_3dref": Path("unposed.star")}, "unposed.star"),
        ({"symmetry": "X7"}, "is not the name of a point group"),
        ({"symmetry": "C4", "zdim": 2}, "--symmetry C4 and --zdim 2"),
        ({"symmetry": "D2", "in_3dref": Path("low.mrc")}, "the axes of the symmetry decide"),
        ({"symmetry": "I3", "flip_hand": True}, "turns the axes of I3 away"),
        ({"o": Path(), "in_parts": Path("particles.star")}, "would overwrite particles.star"),
        ({"mask_diameter_A": 5000.0}, "5000"),
        ({"device": "cuda"}, "cuda"),
    ],
)
def test_wrong_inputs_are_refused_and_leave_nothing(
    finished: Finished, search: FakeSearch, fresh: None, change: dict[str, object], says: str
) -> None:
    lines = Path("unposed.star").read_text().splitlines(keepends=True)
    rows = [i for i, line in enumerate(lines) if "@" in line]
    Path("few.star").write_text("".join(line for i, line in enumerate(lines) if i not in rows[12:]))
    without(Path("unposed.star"), Path("half.star"), (), {"rlnRandomSubset": "2"})
    if "cuda" in change.values() and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError) as caught:
        abinit(replace(SETTINGS, **change), SilentMonitor())  # type: ignore[arg-type]
    assert says in str(caught.value)
    assert search.calls == []
    assert not (OUT / "particles.star").exists()


def test_stale_and_partial_pose_columns(finished: Finished, search: FakeSearch, fresh: None) -> None:
    """Template picking leaves a psi alone, 2D classification priors: neither survives, and the job says so."""
    without(Path("unposed.star"), Path("picked.star"), (),
            {"rlnAnglePsi": "-999.0", "rlnAngleRotPrior": "12.0", "cdxState": "3"})  # fmt: skip
    said = run(replace(SETTINGS, in_parts=Path("picked.star")))
    names, _ = table(OUT / "particles.star")
    assert "rlnAngleRotPrior" not in names
    assert "cdxState" not in names
    assert "left out, as they speak of other poses or of an earlier job: rlnAngleRotPrior, cdxState" in said
    assert (
        align_poses(of(OUT / "particles.star"), Poses.of(finished.rotation, finished.shift_A)).errors.degrees.max()
        < 1e-3
    )


def of(path: Path) -> Poses:
    particles = read_particles(path)
    return Poses.of(particles.rotation, particles.shift_A)


def test_relion_3_0_gets_pixel_origins(finished: Finished, search: FakeSearch, fresh: None) -> None:
    particles = read_particles("particles.star")
    columns = ["rlnImageName", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnVoltage", "rlnSphericalAberration",
               "rlnAmplitudeContrast", "rlnMagnification", "rlnDetectorPixelSize"]  # fmt: skip
    lines = ["", "data_", "", "loop_", *(f"_{name} #{i}" for i, name in enumerate(columns, 1))]
    angle = np.degrees(particles.ctf.defocus_angle_rad)
    for i in range(N):
        numbers = [particles.ctf.defocus_u_A[i], particles.ctf.defocus_v_A[i], angle[i], 300, 2.7, 0.1, 1e4, 8.0]
        lines.append(" ".join([particles.image_name[i], *(f"{x:.6f}" for x in numbers)]))
    Path("old.star").write_text("\n".join(lines) + "\n\n")
    abinit(replace(SETTINGS, in_parts=Path("old.star")), SilentMonitor())
    names, rows = table(OUT / "particles.star")
    assert {"rlnOriginX", "rlnOriginY", "rlnRandomSubset"} <= set(names)
    assert "rlnOriginXAngst" not in names
    poses = PoseTable.read(OUT / "poses.npz")
    written = [[float(row[names.index(name)]) for name in ("rlnOriginX", "rlnOriginY")] for row in rows]
    np.testing.assert_allclose(written, -poses.shift_A / PIXEL_SIZE_A, atol=1e-6)


def test_particles_of_cryosparc(finished: Finished, search: FakeSearch, fresh: None) -> None:
    """A .cs without alignments3D comes back with them, by the conventions of CryoSPARC, and as a STAR when asked."""
    convert(ConvertSettings(in_parts=Path("unposed.star"), o=Path("picked.cs")), SilentMonitor())
    assert not any("alignments3D" in name for name in read_cs("picked.cs").columns)
    abinit(replace(SETTINGS, in_parts=Path("picked.cs")), SilentMonitor())
    assert (OUT / "particles.csg").exists()
    before, after = read_cs("picked.cs"), read_cs(OUT / "particles.cs")
    for name, values in before.columns.items():
        np.testing.assert_array_equal(after.columns[name], values)
    assert {f"alignments3D/{name}" for name in ("pose", "shift", "psize_A", "split", "class", "alpha")} <= set(
        after.columns
    )
    returned = read_particles(OUT / "particles.cs")
    found = align_poses(Poses.of(returned.rotation, returned.shift_A), Poses.of(finished.rotation, finished.shift_A))
    assert found.errors.degrees.max() < 1e-3
    assert found.errors.shift_px.max() < 1e-3
    assert sorted(set(after.columns["alignments3D/split"].tolist())) == [0, 1]
    abinit(replace(SETTINGS, in_parts=Path("picked.cs"), particles_format="star"), SilentMonitor())
    assert not (OUT / "particles.cs").exists()
    star = read_particles(OUT / "particles.star")
    np.testing.assert_allclose(star.rotation, returned.rotation, atol=1e-6)
    np.testing.assert_array_equal(star.half_set, returned.half_set)


def test_a_smaller_working_box_keeps_shifts_in_the_pixels_of_the_files(
    finished: Finished, search: FakeSearch, fresh: None
) -> None:
    abinit(replace(SETTINGS, box=24), SilentMonitor())
    assert read_map(OUT / "map.mrc").pixel_size_A == pytest.approx(PIXEL_SIZE_A * BOX / 24)
    found = align_poses(of(OUT / "particles.star"), Poses.of(finished.rotation, finished.shift_A))
    assert found.errors.degrees.max() < 1e-3
    assert found.errors.shift_px.max() < 1e-3


def test_heterogeneous_results(
    finished: Finished, search: FakeSearch, fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = fake_engine.install(monkeypatch)
    result = abinit(replace(SETTINGS, zdim=2, volumes=3), SilentMonitor())
    assert [sorted(call) for call in search.calls] == [["max_shift_px", "n", "rotation"], ["radius", "refined"]]
    assert len(engine.calls) == 2  # before and after the poses are refined
    with np.load(OUT / "latents.npz") as arrays:
        assert arrays["z"].shape == (N, 2)
        np.testing.assert_array_equal(arrays["uid"], read_particles(OUT / "particles.star").uid)
    names, _ = table(OUT / "particles.star")
    assert {"cdxLatent1", "cdxLatent2"} <= set(names)
    assert sorted(path.name for path in (OUT / "volumes").glob("*.mrc")) == [f"vol_00{i}.mrc" for i in range(3)]
    assert (OUT / "model").is_dir()
    assert [output.kind for output in result.files].count(OutputKind.MAP) == 4
    # Without --zdim nothing of it stays, and the poses are those of the search again.
    said = run(SETTINGS)
    assert "Poses from nothing: done before" in said
    assert not (OUT / "latents.npz").exists()
    assert not (OUT / "model").exists()
    assert "cdxLatent1" not in (OUT / "particles.star").read_text()


def test_elsewhere_is_no_small_transform() -> None:
    """The stand-in would prove nothing in the frame of the truth."""
    assert ELSEWHERE.mirrored
    assert np.degrees(np.arccos((np.trace(ELSEWHERE.rotation) - 1) / 2)) > 60

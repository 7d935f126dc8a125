"""Origins that the user's file has: read with the right sign, believed when images agree, and returned in shifts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from cryodrgn_ext.errors import InputError, ResumeError
from cryodrgn_ext.images.dataset import ParticleImages, open_images
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.jobs.abinit import abinit
from cryodrgn_ext.metadata.cs import read_cs, write_cs
from cryodrgn_ext.metadata.particle_writing import write_particles_cs, write_particles_star
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.options.abinit import AbinitSettings
from cryodrgn_ext.pose.metrics import align_poses
from cryodrgn_ext.pose.origins import average_snr, centred_on, judge_origins, origins_px, read_origins
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.simulate import simulate_particles, two_domain_protein, write_relion_project
from tests.jobs import fake_engine, fake_poses
from tests.jobs.fake_poses import ELSEWHERE, FakeSearch
from tests.jobs.test_abinit import table, without
from tests.monitors import said_by

N, BOX, PIXEL_SIZE_A, FARTHEST_PX = 240, 32, 8.0, 5.0
ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst")
OUT = Path("out")
SETTINGS = AbinitSettings(in_parts=Path("classified.star"), o=OUT, device="cpu")
#: How far the stand-in for the search puts poses off through its own coordinates, in pixels.
OFF_PX = float(np.linalg.norm(ELSEWHERE.shift_px))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Particles with the angles in the plane and the origins of a 2D classification, some 6 Å wrong."""
    root = tmp_path_factory.mktemp("origins") / "project"
    particles = simulate_particles(N, motion=two_domain_protein(0, 0.0), box_size=BOX, pixel_size_A=PIXEL_SIZE_A,
                                   snr=0.5, max_shift_px=FARTHEST_PX, seed=1)  # fmt: skip
    write_relion_project(root, particles)
    shift_A = particles.shift_px * PIXEL_SIZE_A
    np.savez(root / "poses.npz", rotation=particles.rotation, shift_A=shift_A)
    without(root / "particles.star", root / "picked.star", ("rlnAngleRot", "rlnAngleTilt", *ORIGINS, "rlnRandomSubset"))
    picked = read_particles(root / "picked.star", require_poses=False)
    origin_A = np.random.default_rng(0).normal(-shift_A, 6.0)  # RELION's sign: where to move the image
    write_particles_star(picked, root / "classified.star", dict(zip(ORIGINS, origin_A.T, strict=True)))
    write_particles_star(picked, root / "opposite.star", dict(zip(ORIGINS, -origin_A.T, strict=True)))
    np.save(root / "origin_A.npy", origin_A)
    return root


@pytest.fixture
def project(simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the working directory; jobs write no report."""
    root = tmp_path / "project"
    shutil.copytree(simulated, root, copy_function=shutil.copy2)
    monkeypatch.chdir(root)
    monkeypatch.setattr("cryodrgn_ext.jobs.abinit.write_abinit_reports", lambda *_: None)
    return root


@pytest.fixture
def search(project: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSearch:
    with np.load("poses.npz") as truth:
        return fake_poses.install(monkeypatch, truth["rotation"], truth["shift_A"])


def run(settings: AbinitSettings) -> str:
    return said_by(abinit, settings)


def images_of(name: str) -> ParticleImages:
    particles = read_particles(name, require_poses=False)
    eye = np.broadcast_to(np.eye(3), (particles.n, 3, 3))
    return open_images(particles.with_poses(eye, np.zeros((particles.n, 2))), Path(f"store_{Path(name).stem}"))


def returned_errors(path: Path, search: FakeSearch) -> tuple[float, float]:
    """Largest errors in degrees and Å of the poses that came back, when the search made none."""
    particles = read_particles(path)
    errors = align_poses(
        Poses.of(particles.rotation, particles.shift_A), Poses.of(search.rotation, search.shift_A)
    ).errors
    return float(errors.degrees.max()), float(errors.shift_px.max())


def test_origins_of_a_star_file_are_minus_the_shifts(project: Path) -> None:
    found = read_origins(read_particles("classified.star", require_poses=False))
    assert found is not None
    np.testing.assert_allclose(found.shift_A, -np.load("origin_A.npy"), atol=1e-3)
    assert read_origins(read_particles("picked.star", require_poses=False)) is None
    zero = dict.fromkeys(ORIGINS, np.zeros(N))
    write_particles_star(read_particles("picked.star", require_poses=False), "zero.star", zero)
    assert read_origins(read_particles("zero.star", require_poses=False)) is None


def test_origins_of_relion_3_0_count_pixels(project: Path) -> None:
    particles = read_particles("classified.star", require_poses=False)
    columns = ["rlnImageName", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnVoltage", "rlnSphericalAberration",
               "rlnAmplitudeContrast", "rlnMagnification", "rlnDetectorPixelSize", "rlnOriginX",
               "rlnOriginY"]  # fmt: skip
    lines = ["", "data_", "", "loop_", *(f"_{name} #{i}" for i, name in enumerate(columns, 1))]
    for name, (x, y) in zip(particles.image_name, np.load("origin_A.npy") / PIXEL_SIZE_A, strict=True):
        lines.append(f"{name} 10000 10000 0 300 2.7 0.1 10000 8.0 {x:.6f} {y:.6f}")
    Path("old.star").write_text("\n".join(lines) + "\n\n")
    found = read_origins(read_particles("old.star", require_poses=False))
    assert found is not None
    np.testing.assert_allclose(found.shift_A, -np.load("origin_A.npy"), atol=1e-4)


def with_alignments_2d(sign: float = 1.0) -> None:
    """picked.cs: as CryoSPARC leaves them after 2D classification, shifts in pixels of another size."""
    write_particles_cs(read_particles("picked.star", require_poses=False), "bare.cs")
    shift = (sign * np.load("origin_A.npy") / 4.0).astype(np.float32)
    write_cs("picked.cs", read_cs("bare.cs"), None,
             {"alignments2D/shift": shift, "alignments2D/psize_A": np.full(N, 4.0, np.float32)})  # fmt: skip


def test_alignments_2d_of_cryosparc(project: Path, search: FakeSearch) -> None:
    with_alignments_2d()
    found = read_origins(read_particles("picked.cs", require_poses=False))
    assert found is not None
    np.testing.assert_allclose(found.shift_A, -np.load("origin_A.npy"), atol=1e-3)
    assert "alignments2D/shift; root mean square" in run(replace(SETTINGS, in_parts=Path("picked.cs")))
    assert search.farthest_px < FARTHEST_PX
    assert max(returned_errors(OUT / "particles.cs", search)) < 2e-3
    with_alignments_2d(-1.0)  # should CryoSPARC count them the other way, the images say so
    assert "Not used: the origins in picked.cs" in run(replace(SETTINGS, in_parts=Path("picked.cs"), o=Path("other")))


def test_the_average_image_separates_good_origins_from_bad_ones(project: Path) -> None:
    images = images_of("picked.star")
    right, wrong = (read_origins(read_particles(f"{name}.star", require_poses=False))
                    for name in ("classified", "opposite"))  # fmt: skip
    assert right is not None
    assert wrong is not None
    judged = judge_origins(images, right, "auto", SilentMonitor())
    assert judged.used
    assert judged.snr > 2 * judged.snr_without
    rng = np.random.default_rng(1)
    for bad in (wrong, replace(right, shift_A=rng.permutation(right.shift_A))):
        assert not judge_origins(images, bad, "auto", SilentMonitor()).used
    assert judge_origins(images, wrong, "yes", SilentMonitor()).used


def test_the_average_of_noise_has_no_signal() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(400, 32, 32, generator=generator)
    images = ParticleImages.from_tensors(
        pixels, torch.eye(3).expand(400, 3, 3), torch.zeros(400, 2), 4.0, pixel_noise_sd=1.0
    )
    count = images.plane.prefix(8)
    assert abs(average_snr(images, count, SilentMonitor(), "")) < 4 * np.sqrt(count)


def test_centring_moves_images_and_counts_shifts_from_there(project: Path) -> None:
    """The same centred coefficients whether a shift is the images' own or divided between both."""
    images = images_of("picked.star")
    origins = read_origins(read_particles("classified.star", require_poses=False))
    assert origins is not None
    centre = origins_px(origins, images)
    truth = torch.from_numpy(np.load("poses.npz")["shift_A"] / PIXEL_SIZE_A)
    aligned = images.with_poses(Poses(images.rotation, truth))
    moved = centred_on(aligned, centre)
    torch.testing.assert_close(moved.shift_px, (truth - centre).float())
    assert float(moved.shift_px.abs().max()) < 3.0 < float(truth.abs().max())
    rows = torch.arange(0, N, 7)
    torch.testing.assert_close(moved.batch(rows).coefficients, aligned.batch(rows).coefficients, atol=1e-3, rtol=1e-3)
    assert centred_on(aligned, None) is aligned


def test_the_search_begins_from_them_and_the_shifts_include_them(project: Path, search: FakeSearch) -> None:
    said = run(SETTINGS)
    assert "The search looks for shifts around the origins in classified.star" in said
    assert search.farthest_px < FARTHEST_PX  # what was left of shifts of up to 5 px and the stand-in's own 1.5
    assert max(returned_errors(OUT / "particles.star", search)) < 1e-3
    before, after = table(Path("classified.star")), table(OUT / "particles.star")
    assert after[0][: len(before[0])] == before[0]
    notes = yaml.safe_load((OUT / "job.yaml").read_text())["results"]["notes"]
    assert any("the SNR of the average of all images is" in note for note in notes)
    assert run(SETTINGS).count("done before") == 5
    assert len(search.calls) == 1


def test_they_are_not_used_where_they_do_not_centre_the_images(project: Path, search: FakeSearch) -> None:
    said = run(replace(SETTINGS, in_parts=Path("opposite.star")))
    assert "Not used: the origins in opposite.star" in said
    assert not json.loads((OUT / "checkpoint/origins.json").read_text())["used"]
    assert search.farthest_px > FARTHEST_PX
    assert max(returned_errors(OUT / "particles.star", search)) < 1e-3


def test_yes_and_no_are_obeyed(project: Path, search: FakeSearch) -> None:
    said = run(replace(SETTINGS, in_parts=Path("opposite.star"), use_origins="yes"))
    assert "Warning: the search looks for shifts around the origins in opposite.star" in said
    assert search.farthest_px > 2 * FARTHEST_PX - OFF_PX - 3.0
    assert max(returned_errors(OUT / "particles.star", search)) < 1e-3
    with pytest.raises(ResumeError, match="--use_origins was yes"):
        run(replace(SETTINGS, in_parts=Path("opposite.star")))
    said = run(replace(SETTINGS, use_origins="no", o=Path("ignored")))
    assert "Ignored, as --use_origins says: the origins in classified.star" in said
    assert search.farthest_px > FARTHEST_PX
    assert max(returned_errors(Path("ignored/particles.star"), search)) < 1e-3


def test_poses_against_own_volumes_keep_them(
    project: Path, search: FakeSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_engine.install(monkeypatch)
    run(replace(SETTINGS, zdim=2, volumes=0, box=24))
    assert "refined" in search.calls[-1]
    assert max(returned_errors(OUT / "particles.star", search)) < 1e-3


def test_origins_outside_of_the_images(project: Path, search: FakeSearch) -> None:
    origin = np.load("origin_A.npy")
    origin[6, 1] = 0.51 * BOX * PIXEL_SIZE_A
    write_particles_star(
        read_particles("picked.star", require_poses=False), "far.star", dict(zip(ORIGINS, origin.T, strict=True))
    )
    given = replace(SETTINGS, in_parts=Path("far.star"))
    with pytest.raises(
        InputError, match=r"the origin in row 7 of far\.star .* lies outside of the images, which are 256"
    ):
        run(replace(given, use_origins="yes"))
    assert not OUT.exists()
    assert "The origins are not used: the origin in row 7 of far.star" in run(given)
    assert search.farthest_px > FARTHEST_PX


def test_yes_needs_origins(project: Path) -> None:
    with pytest.raises(InputError, match=r"picked\.star has no origins \(or all are 0\), but --use_origins is yes"):
        run(replace(SETTINGS, in_parts=Path("picked.star"), use_origins="yes"))

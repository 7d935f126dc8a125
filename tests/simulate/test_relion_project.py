from __future__ import annotations

import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
from scipy.spatial.distance import pdist

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.half_sets import choose_half_sets
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.simulate import TWO_GROUPS, simulate_particles, write_relion_project
from cryodrgn_ext.simulate.optics import SimulatedOptics
from cryodrgn_ext.simulate.relion_project import background_radius_px, picked_places


def shell_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    d = len(a)
    k = np.fft.fftfreq(d, 1 / d)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).astype(int).ravel()
    fa, fb = np.fft.fftn(a).ravel(), np.fft.fftn(b).ravel()

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(shell, values, d)[: d // 2]

    return total((fa * fb.conj()).real) / np.sqrt(total(np.abs(fa) ** 2) * total(np.abs(fb) ** 2))


def test_files_say_the_same_as_the_particles(tmp_path: Path) -> None:
    particles = simulate_particles(230, optics=TWO_GROUPS, seed=1)
    project = write_relion_project(tmp_path / "project", particles)
    tables = starfile.read(project.particles_star)
    optics, rows = tables["optics"], tables["particles"]
    assert list(optics["rlnVoltage"]) == [300.0, 200.0]
    assert list(optics["rlnImagePixelSize"]) == [4.0, 4.0]
    assert len(rows) == 230
    assert rows["rlnImageName"][229] == "000230@Particles/particles.mrcs"
    assert np.allclose(rows[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]], particles.euler_deg, atol=1e-6)
    assert np.allclose(rows[["rlnOriginXAngst", "rlnOriginYAngst"]], -4.0 * particles.shift_px, atol=1e-6)
    assert np.array_equal(rows["rlnOpticsGroup"], particles.optics_index + 1)
    assert set(rows["rlnRandomSubset"]) == {1, 2}
    assert rows["rlnMicrographName"].nunique() == 3
    with mrcfile.open(project.stack) as stack:
        assert stack.data.shape == (230, 64, 64)
        assert stack.is_image_stack()
        assert stack.voxel_size.x == pytest.approx(4.0)
        axis = np.arange(64) - 32
        outside = axis[:, None] ** 2 + axis**2 > background_radius_px(particles) ** 2
        background = stack.data[:, outside]
    assert np.allclose(background.mean(1), 0, atol=1e-5)
    assert np.allclose(background.std(1), 1, atol=1e-5)
    with mrcfile.open(project.reference) as reference, mrcfile.open(project.mask) as mask:
        assert reference.is_volume()
        assert reference.voxel_size.x == pytest.approx(4.0)
        inside = mask.data > 0.5
        assert reference.data[inside].sum() > 0.99 * reference.data.sum()
        assert mask.data.min() == 0
        assert mask.data.max() == 1
        assert inside.mean() < 0.25
    assert not list(project.directory.rglob(".*partial*"))


@pytest.mark.parametrize(("n", "box_size", "pixel_size_A"), [(1, 64, 4.0), (250, 64, 4.0), (101, 512, 0.5)])
def test_particles_do_not_overlap_on_micrographs(n: int, box_size: int, pixel_size_A: float) -> None:
    particles = simulate_particles(n, box_size=box_size, pixel_size_A=pixel_size_A, seed=3)
    place = picked_places(particles)
    assert np.array_equal(place, picked_places(particles))
    assert place.min() > 0
    diameter_px = 2 * particles.motion.radius_A / pixel_size_A
    for first in range(0, n, 100):
        assert pdist(place[first : first + 100]).min(initial=np.inf) >= max(diameter_px, box_size / 4)


def test_the_half_sets_are_independent(tmp_path: Path) -> None:
    project = write_relion_project(tmp_path, simulate_particles(1000, box_size=32, pixel_size_A=8.0))
    assert choose_half_sets(read_particles(project.particles_star), 0).notes == ()


def test_images_can_be_left_unnormalised(tmp_path: Path) -> None:
    particles = simulate_particles(20)
    project = write_relion_project(tmp_path, particles, normalise=False)
    assert np.array_equal(mrcfile.read(project.stack), particles.images())


def test_an_existing_pipeline_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "default_pipeline.star").write_text("mine")
    write_relion_project(tmp_path, simulate_particles(5))
    assert (tmp_path / "default_pipeline.star").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written to .*file"):
        write_relion_project(tmp_path / "file", simulate_particles(5))


@pytest.mark.relion
@pytest.mark.parametrize("optics", [TWO_GROUPS[:1], TWO_GROUPS], ids=["one group", "two groups"])
def test_relion_reconstructs_the_truth(tmp_path: Path, optics: tuple[SimulatedOptics, ...]) -> None:
    particles = simulate_particles(1500, snr=1.0, optics=optics, seed=4)
    project = write_relion_project(tmp_path, particles)
    subprocess.run(
        ["relion_reconstruct", "--i", "particles.star", "--o", "rec.mrc", "--ctf"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    mask = mrcfile.read(project.mask)
    reconstruction = mrcfile.read(tmp_path / "rec.mrc") * mask
    truth = particles.mean_volume() * mask
    curve = shell_correlation(reconstruction, truth)
    assert curve[1:24].min() > 0.97  # three quarters of Nyquist
    assert np.corrcoef(reconstruction.ravel(), truth.ravel())[0, 1] > 0.97  # positive density, unmirrored
    mirrored = np.zeros_like(truth)
    mirrored[1:] = truth[:0:-1]
    assert np.corrcoef(reconstruction.ravel(), mirrored.ravel())[0, 1] < 0.9

"""From a RELION project on disk to coefficients: oracle, reuse, resumption, contrast, optics, errors."""

from __future__ import annotations

import io
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from cryodrgn_ext.errors import InputError, JobAborted
from cryodrgn_ext.images.dataset import ParticleImages, PreprocessSettings, open_images
from cryodrgn_ext.images.store import StoreHeader
from cryodrgn_ext.metadata.particles import ParticleSet, read_particles
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.simulate import (
    ONE_GROUP,
    TWO_GROUPS,
    SimulatedOptics,
    SimulatedParticles,
    simulate_particles,
    write_relion_project,
)
from tests.monitors import RecordingMonitor

BOX, PIXEL_A, N = 32, 8.0, 120
SMALL_CHUNK = 20 * 5 * 4 * BOX**2  # twenty images


def simulated(snr: float, seed: int, optics: tuple[SimulatedOptics, ...] = ONE_GROUP) -> SimulatedParticles:
    return simulate_particles(
        N, box_size=BOX, pixel_size_A=PIXEL_A, max_shift_px=2.0, snr=snr, optics=optics, seed=seed
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project: 120 noisy images in two optics groups."""
    directory = tmp_path_factory.mktemp("project")
    write_relion_project(directory, simulated(0.3, optics=TWO_GROUPS, seed=2))
    return directory


def particles_of(project: Path) -> ParticleSet:
    return read_particles(project / "particles.star", project)


def stack_of(project: Path) -> Path:
    return project / "Particles/particles.mrcs"


def copy_with(project: Path, target: Path, change: Callable[[np.ndarray], np.ndarray]) -> ParticleSet:
    """A copy of the project with changed pixels."""
    (target / "Particles").mkdir(parents=True)
    (target / "particles.star").write_text((project / "particles.star").read_text())
    with mrcfile.open(stack_of(project)) as source, mrcfile.new(stack_of(target)) as file:
        file.set_data(change(np.array(source.data)))
    return particles_of(target)


def plain_coefficients(images: ParticleImages, project: Path, row: int) -> np.ndarray:
    """One particle's centred, whitened coefficients by a float64 sum over pixels, straight from the definition."""
    with mrcfile.open(stack_of(project)) as file:
        image = np.array(file.data[row], np.float64)
    axis = np.arange(BOX) - BOX // 2
    x, y = np.meshgrid(axis, axis)
    r = np.hypot(x, y)
    outside = r > 0.375 * BOX
    plane = np.stack([np.ones_like(r), x, y], axis=-1)
    image = image - plane @ np.linalg.lstsq(plane[outside], image[outside], rcond=None)[0]
    image = image / image[outside].std()
    ramp = np.clip((r - 0.85 * BOX / 2) / (0.14 * BOX / 2), 0, 1)
    image = image * 0.5 * (1 + np.cos(np.pi * ramp))
    k = images.plane.kxy.double().numpy()
    shift = images.particles.shift_A[row] / PIXEL_A  # type: ignore[union-attr]
    phase = (k[:, :1] * (x.ravel() - shift[0]) + k[:, 1:] * (y.ravel() - shift[1])) / BOX
    transform = (np.exp(-2j * np.pi * phase) * image.ravel()).sum(1)
    scale = images.geometry.groups[0].value_scale
    sigma = images.noise_sigma[images.optics_index[row]].double().numpy()[images.plane.shell.numpy()]
    return np.asarray(transform * scale / sigma)


@pytest.mark.parametrize("working_box", [None, 24])
def test_coefficients_are_those_of_the_definition(project: Path, tmp_path: Path, working_box: int | None) -> None:
    settings = PreprocessSettings(box_size=working_box, storage="float32")
    images = open_images(particles_of(project), tmp_path / "store", settings)
    batch = images.batch(torch.tensor([7, 101]))
    for found, row in zip(batch.coefficients.numpy(), (7, 101), strict=True):
        expected = plain_coefficients(images, project, row)
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_float16_storage_costs_less_than_a_thousandth_of_the_noise(project: Path, tmp_path: Path) -> None:
    exact = open_images(particles_of(project), tmp_path / "a", PreprocessSettings(storage="float32"))
    small = open_images(particles_of(project), tmp_path / "b", PreprocessSettings(storage="float16"))
    rows = torch.arange(N)
    difference = exact.batch(rows).coefficients - small.batch(rows).coefficients
    assert difference.abs().square().mean().sqrt() < 1e-3
    assert (tmp_path / "b/coefficients.bin").stat().st_size * 2 == (tmp_path / "a/coefficients.bin").stat().st_size


def test_noise_is_whitened_in_both_optics_groups(tmp_path: Path) -> None:
    write_relion_project(tmp_path / "faint", simulated(0.01, optics=TWO_GROUPS, seed=3))
    images = open_images(particles_of(tmp_path / "faint"), tmp_path / "store")
    outer = slice(images.plane.prefix(5), None)  # where there is next to no signal
    for group in (0, 1):
        rows = (images.optics_index == group).nonzero()[:, 0]
        power = images.batch(rows).coefficients[:, outer].abs().square().mean()
        assert power == pytest.approx(float(images.window_power[group]), rel=0.05)


def test_a_finished_store_is_reused_and_serves_subsets(project: Path, tmp_path: Path) -> None:
    particles = particles_of(project)
    first = open_images(particles, tmp_path / "store")
    before = (tmp_path / "store/coefficients.bin").stat()
    log = io.StringIO()
    chosen = np.array([90, 3, 77])
    part = open_images(particles.subset(chosen), tmp_path / "store", monitor=Monitor(log))
    assert "Reusing" in log.getvalue()
    after = (tmp_path / "store/coefficients.bin").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    assert torch.equal(part.batch(torch.arange(3)).coefficients, first.batch(torch.from_numpy(chosen)).coefficients)
    assert torch.equal(part.batch(torch.arange(3)).ctf, first.batch(torch.from_numpy(chosen)).ctf)
    assert torch.equal(part.noise_sigma, first.noise_sigma)


def test_a_store_of_before_that_ends_below_nyquist_stays_in_use(project: Path, tmp_path: Path) -> None:
    particles = particles_of(project)
    first = open_images(particles, tmp_path / "store", PreprocessSettings(radius=BOX // 2 - 1))
    log = io.StringIO()
    second = open_images(particles, tmp_path / "store", monitor=Monitor(log), rebuild=True)
    assert "Reusing" in log.getvalue()
    assert second.plane.radius == BOX // 2 - 1
    rows = torch.arange(4)
    assert torch.equal(second.batch(rows).coefficients, first.batch(rows).coefficients)
    other = PreprocessSettings(data_sign="black")  # must be made anew: then with all frequencies
    assert open_images(particles, tmp_path / "store", other, rebuild=True).plane.radius == BOX // 2


def test_poses_may_change_without_a_new_store(project: Path, tmp_path: Path) -> None:
    particles = particles_of(project)
    first = open_images(particles, tmp_path / "store")
    moved = particles.with_poses(particles.rotation, particles.shift_A + 4.0)
    second = open_images(moved, tmp_path / "store")
    row = torch.tensor([5])
    k = first.plane.kxy.double().sum(1)
    turned = first.batch(row).coefficients * torch.exp(2j * math.pi * k * (4.0 / PIXEL_A) / BOX)
    assert torch.allclose(second.batch(row).coefficients, turned.to(torch.complex64), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"box_size": 24}, "it was made with box_size = 32, now 24 is asked for"),
        ({"data_sign": "black"}, "contrast = auto, now black"),
    ],
)
def test_a_store_of_other_settings_is_refused_or_replaced(
    project: Path, tmp_path: Path, change: dict[str, object], pattern: str
) -> None:
    particles = particles_of(project)
    open_images(particles, tmp_path / "store")
    other = PreprocessSettings(**change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=pattern):
        open_images(particles, tmp_path / "store", other)
    rebuilt = open_images(particles, tmp_path / "store", other, rebuild=True)
    header = StoreHeader.read(tmp_path / "store")
    assert header is not None
    assert header.complete
    assert rebuilt.source.n_coefficients == header.n_coefficients == rebuilt.plane.n_coefficients


def test_an_aborted_build_continues_to_the_same_bytes(project: Path, tmp_path: Path) -> None:
    particles = particles_of(project)
    open_images(particles, tmp_path / "whole", chunk_bytes=SMALL_CHUNK)
    done = [0]
    for steps in (9, 2):  # the first time the sample is looked at as well
        with pytest.raises(JobAborted):
            open_images(particles, tmp_path / "parts", monitor=RecordingMonitor(polls=steps), chunk_bytes=SMALL_CHUNK)
        half = StoreHeader.read(tmp_path / "parts")
        assert half is not None
        done.append(half.images_done)
    assert 0 < done[1] < done[2] < N
    open_images(particles, tmp_path / "parts", chunk_bytes=SMALL_CHUNK)
    assert (tmp_path / "parts/coefficients.bin").read_bytes() == (tmp_path / "whole/coefficients.bin").read_bytes()


def test_a_killed_build_continues(project: Path, tmp_path: Path) -> None:
    script = f"""
import time
from cryodrgn_ext.images import dataset, store
from cryodrgn_ext.metadata.particles import read_particles
append = store.StoreWriter.append
def slow(self, *values):
    append(self, *values)
    print("chunk", flush=True)
    time.sleep(60)
store.StoreWriter.append = slow
dataset.open_images(read_particles({str(project / "particles.star")!r}, {str(project)!r}), {str(tmp_path / "store")!r},
                    chunk_bytes={SMALL_CHUNK})
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "chunk\n"
        process.send_signal(signal.SIGKILL)
    half = StoreHeader.read(tmp_path / "store")
    assert half is not None
    assert half.images_done == 20
    assert not half.complete
    open_images(particles_of(project), tmp_path / "store", chunk_bytes=SMALL_CHUNK)
    open_images(particles_of(project), tmp_path / "whole", chunk_bytes=SMALL_CHUNK)
    assert (tmp_path / "store/coefficients.bin").read_bytes() == (tmp_path / "whole/coefficients.bin").read_bytes()


def test_a_changed_stack_is_noticed(project: Path, tmp_path: Path) -> None:
    particles = copy_with(project, tmp_path / "copy", lambda data: data)
    open_images(particles, tmp_path / "store")
    os.utime(stack_of(tmp_path / "copy"), (time.time() + 5, time.time() + 5))
    with pytest.raises(InputError, match=r"particles.mrcs has changed since"):
        open_images(particles, tmp_path / "store")


@pytest.fixture(scope="module")
def contrast_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("contrast")
    write_relion_project(directory, simulated(0.5, seed=4))
    return directory


@pytest.mark.parametrize(
    ("invert", "setting", "sign", "message"),
    [
        (False, "auto", 1, "Contrast: particles are white"),
        (True, "auto", -1, "Warning: particles are black in the images"),
        (True, "black", -1, "Contrast: black as set"),
        (False, "black", -1, "Warning: contrast was set to black, but the images look white"),
    ],
)
def test_contrast_is_found_said_and_corrected(
    contrast_project: Path, tmp_path: Path, invert: bool, setting: str, sign: int, message: str
) -> None:
    particles = copy_with(contrast_project, tmp_path / "copy", lambda data: -data if invert else data)
    log = io.StringIO()
    settings = PreprocessSettings(data_sign=setting)
    images = open_images(particles, tmp_path / "store", settings, Monitor(log))
    reference = open_images(particles_of(contrast_project), tmp_path / "reference")
    assert message in log.getvalue()
    positive = -1 if (sign == -1) != invert else 1  # of the map that comes out
    rows = torch.arange(10)
    assert torch.allclose(images.batch(rows).coefficients, positive * reference.batch(rows).coefficients, atol=2e-2)


def test_images_of_a_symmetry_expanded_set_are_stored_once(project: Path, tmp_path: Path) -> None:
    lines = (project / "particles.star").read_text().splitlines()
    rows = [line for line in lines if "@" in line]
    text = "\n".join([*(line for line in lines if "@" not in line), *rows, *rows[::-1], ""])
    star = project / "expanded.star"
    star.write_text(text)
    expanded = read_particles(star, project)
    assert expanded.n == 2 * N
    images = open_images(expanded, tmp_path / "store")
    header = StoreHeader.read(tmp_path / "store")
    assert header is not None
    assert header.n_images == N
    first, second = images.source.gather(torch.tensor([4, 2 * N - 1 - 4]), 100)
    assert torch.equal(first, second)
    assert int(images.half_set[4]) == int(images.half_set[2 * N - 1 - 4])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda data: data[:50], r"holds 50 images, but image 120 is asked for"),
        (lambda data: data[:, :30, :30], r"holds images of 30 px, but the metadata say 32 px"),
        (lambda data: data[:, :, :30], r"holds images of 30 x 32 px: they must be square"),
        (lambda data: 0 * data + 3, r"image 1@.*particles.mrcs has a constant background, .*: remove blank images"),
        (
            lambda data: data * np.nan,
            r"image 1@.*particles.mrcs has pixels that are not finite .* no images of particles",
        ),
    ],
)
def test_stacks_that_are_no_images_are_named_and_leave_no_complete_store(
    project: Path, tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], pattern: str
) -> None:
    particles = copy_with(project, tmp_path / "copy", change)
    with pytest.raises(InputError, match=pattern):
        open_images(particles, tmp_path / "store")
    header = StoreHeader.read(tmp_path / "store")
    assert header is None or not header.complete


def test_memory_chunks_change_nothing_but_rounding(project: Path, tmp_path: Path) -> None:
    particles = particles_of(project)
    settings = PreprocessSettings(storage="float32")
    a = open_images(particles, tmp_path / "a", settings, chunk_bytes=1)
    b = open_images(particles, tmp_path / "b", settings)
    rows = torch.arange(N)
    assert torch.allclose(a.batch(rows).coefficients, b.batch(rows).coefficients, rtol=1e-4, atol=1e-4)


def with_optics(project: Path, name: str, columns: dict[str, tuple[str, str]]) -> ParticleSet:
    """The project's particles with columns added to the two rows of the optics table."""
    out, groups = [], 0
    for line in (project / "particles.star").read_text().splitlines():
        if line.startswith("opticsGroup"):
            out.append(" ".join([line, *(values[groups] for values in columns.values())]))
            groups += 1
        else:
            out.append(line)
        if line.startswith("_rlnImageDimensionality"):
            out += [f"_{column} #{9 + i}" for i, column in enumerate(columns)]
    (project / name).write_text("\n".join(out) + "\n")
    return read_particles(project / name, project)


def test_beam_tilt_is_taken_out_on_the_way_in(project: Path, tmp_path: Path) -> None:
    tilted = with_optics(project, "tilted.star", {"rlnBeamTiltX": ("1.5", "0.0")})
    assert tilted.optics[0].beam_tilt_mrad == (1.5, 0.0)
    a = open_images(particles_of(project), tmp_path / "a", PreprocessSettings(storage="float32"))
    b = open_images(tilted, tmp_path / "b", PreprocessSettings(storage="float32"))
    for group in (0, 1):
        row = (a.optics_index == group).nonzero()[:1, 0]
        ratio = (b.batch(row).coefficients / a.batch(row).coefficients)[0].to(torch.complex128)
        optics = tilted.optics[group]
        k = a.plane.kxy.double() / (BOX * PIXEL_A)
        volts = optics.voltage_kV * 1e3
        wavelength = 12.2643247 / math.sqrt(volts * (1 + volts * 0.978466e-6))
        # axial coma, written out: the image was multiplied by exp(i phase), so we divide by it
        phase = -2 * math.pi * optics.cs_mm * 1e7 * wavelength**2 * k.square().sum(1) * k[:, 0] * 1e-3
        expected = torch.exp(-1j * phase * optics.beam_tilt_mrad[0])
        assert torch.allclose(ratio, expected, atol=1e-4)


def test_magnification_and_even_aberrations_reach_points_and_ctf(project: Path, tmp_path: Path) -> None:
    columns = {"rlnMagMat00": ("1.02", "1.0"), "rlnMagMat01": ("0.0", "0.0"), "rlnMagMat10": ("0.0", "0.0"),
               "rlnMagMat11": ("0.98", "1.0"), "rlnEvenZernike": ("[0.3]", "[0]")}  # fmt: skip
    plain = open_images(particles_of(project), tmp_path / "store")
    other = open_images(with_optics(project, "aberrant.star", columns), tmp_path / "store")
    rows = torch.stack([(plain.optics_index == group).nonzero()[0, 0] for group in (0, 1)])
    a, b = plain.batch(rows), other.batch(rows)
    assert torch.equal(a.coefficients, b.coefficients)  # nothing that the store depends on
    k = plain.plane.kxy.float()
    squared = (k * torch.tensor([1.02, 0.98])).square().sum(1)
    assert torch.allclose(b.points[0].square().sum(1), squared, rtol=1e-4, atol=1e-4)
    assert torch.equal(a.points[1], b.points[1])
    sigma = plain.noise_sigma[0, 0]  # at k = 0 gamma is minus the arcus sine of Q0, plus the constant term
    assert float(b.ctf[0, 0] * sigma) == pytest.approx(-math.sin(0.3 - math.asin(0.1)), abs=1e-4)
    assert torch.equal(a.ctf[1], b.ctf[1])


def test_without_whitening_one_level_per_group_remains(project: Path, tmp_path: Path) -> None:
    images = open_images(particles_of(project), tmp_path / "store", PreprocessSettings(whiten=False))
    assert torch.equal(images.noise_sigma, images.noise_sigma[:, :1].expand_as(images.noise_sigma))
    whitened = open_images(particles_of(project), tmp_path / "whitened")
    assert torch.allclose(images.noise_sigma[:, 0], whitened.noise_sigma[:, 8:].mean(1), rtol=0.1)


def test_images_without_poses_can_be_opened(project: Path, tmp_path: Path) -> None:
    lines = (project / "particles.star").read_text().splitlines()
    names = ("_rlnAngleRot", "_rlnAngleTilt", "_rlnAnglePsi", "_rlnOriginXAngst", "_rlnOriginYAngst")
    table = [line.split()[0] for line in lines[lines.index("data_particles") :] if line.startswith("_rln")]
    drop = {table.index(name) for name in names}
    out = []
    for line in lines:
        words = line.split()
        if "@" in line:
            out.append(" ".join(word for i, word in enumerate(words) if i not in drop))
        elif not line.startswith(names):
            out.append(line)
    (project / "unposed.star").write_text("\n".join(out) + "\n")
    images = open_images(read_particles(project / "unposed.star", project, require_poses=False), tmp_path / "store")
    batch = images.batch(torch.arange(4))
    assert bool(torch.isfinite(torch.view_as_real(batch.coefficients)).all())
    assert bool(torch.isnan(images.rotation).all())

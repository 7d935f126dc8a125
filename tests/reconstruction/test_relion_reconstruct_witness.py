"""Our backprojection against relion_reconstruct on the same STAR, and STAR files that we wrote in its hands.

relion_project makes the images: two optics groups, random angles, shifts and astigmatic defoci, noise.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from torch import Tensor

from cryodrgn_ext.fourier.fsc import fsc
from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.fourier.masks import spherical_mask
from cryodrgn_ext.fourier.point_groups import point_group
from cryodrgn_ext.fourier.shells import half_volume_norm
from cryodrgn_ext.images.dataset import PreprocessSettings, open_images
from cryodrgn_ext.images.maps import read_map, write_map
from cryodrgn_ext.metadata.particle_writing import write_particles_star
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.reconstruction.backprojection import backproject
from cryodrgn_ext.reconstruction.half_maps import HalfMaps, reconstruct_half_maps

pytestmark = pytest.mark.relion

BOX, PIXEL_A, N = 48, 3.0, 1200
MASK = spherical_mask(BOX, 0.38 * BOX, 3)
PARTICLE_COLUMNS = [
    "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst", "rlnDefocusU", "rlnDefocusV",
    "rlnDefocusAngle", "rlnOpticsGroup", "rlnRandomSubset", "rlnImageName",
]  # fmt: skip


def reference() -> Tensor:
    g = torch.Generator().manual_seed(0)
    beads = (torch.rand(60, 3, generator=g) - 0.5) * 22 + BOX // 2
    axis = torch.arange(BOX)
    parts = [torch.exp(-0.5 * ((axis[None] - beads[:, i : i + 1]) / 0.9) ** 2) for i in range(3)]
    return torch.einsum("nz,ny,nx->zyx", *parts)


def star_text(stack: str, n: int, premultiplied: bool = False) -> str:
    """Two optics groups, everything random but reproducible."""
    rng = np.random.default_rng(5)
    rows = []
    for i in range(n):
        rot, psi = rng.uniform(-180, 180, 2)
        tilt = np.degrees(np.arccos(rng.uniform(-1, 1)))
        u = rng.uniform(8000, 20000)
        numbers = [rot, tilt, psi, *rng.uniform(-8, 8, 2), u, u - rng.uniform(0, 1500), rng.uniform(0, 180)]
        rows.append(" ".join(f"{x:.6f}" for x in numbers) + f" {i % 2 + 1} {i // 2 % 2 + 1} {i + 1:06d}@{stack}")
    optics = [
        "rlnOpticsGroupName", "rlnOpticsGroup", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast",
        "rlnImagePixelSize", "rlnImageSize", "rlnImageDimensionality", "rlnCtfDataAreCtfPremultiplied",
    ]  # fmt: skip
    groups = [
        f"og{g} {g} {kv} {cs} {q0} {PIXEL_A} {BOX} 2 {int(premultiplied)}"
        for g, kv, cs, q0 in ((1, 300, 2.7, 0.1), (2, 200, 1.4, 0.07))
    ]

    def table(name: str, columns: list[str], lines: list[str]) -> str:
        heads = [f"_{column} #{i}" for i, column in enumerate(columns, 1)]
        return "\n".join(["", "# version 30001", "", f"data_{name}", "", "loop_", *heads, *lines, "", ""])

    return table("optics", optics, groups) + table("particles", PARTICLE_COLUMNS, rows)


def run(directory: Path, *words: str) -> None:
    done = subprocess.run(words, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ref.mrc, particles.star and its stack, made by relion_project with noise."""
    directory = tmp_path_factory.mktemp("relion")
    write_map(directory / "ref.mrc", reference().numpy(), PIXEL_A, None)
    (directory / "particles.star").write_text(star_text("proj.mrcs", N))
    project_images(directory, "particles.star", "proj", 1.0)
    return directory


def project_images(directory: Path, star: str, out: str, noise: float, *more: str) -> None:
    """Images OUT.mrcs of the rows of a STAR file (relion_project writes an OUT.star of its own, which we leave)."""
    run(
        directory, "relion_project", "--i", "ref.mrc", "--ang", star, "--o", out, "--ctf", "--angpix", str(PIXEL_A),
        "--add_noise", "--white_noise", str(noise), *more,
    )  # fmt: skip


def reconstruct_with_relion(directory: Path, star: str, out: str, *more: str) -> Tensor:
    run(directory, "relion_reconstruct", "--i", star, "--o", out, "--ctf", *more)
    return torch.from_numpy(read_map(directory / out).data)


def reconstruct(directory: Path, star: str, store: Path) -> HalfMaps:
    settings = PreprocessSettings(normalise=False, storage="float32")
    images = open_images(read_particles(directory / star, directory), store, settings)
    return reconstruct_half_maps(images)


def amplitude_ratio(a: Tensor, b: Tensor) -> np.ndarray:
    shell = half_volume_norm(BOX).round().long().flatten()

    def power(volume: Tensor) -> Tensor:
        return torch.bincount(shell, weights=torch.fft.rfftn(volume * MASK).abs().square().double().flatten())

    return np.asarray((power(a) / power(b)).sqrt())[: BOX // 2]


def test_half_maps_agree_with_relion_in_shape_and_scale(project: Path, tmp_path: Path) -> None:
    ours = reconstruct(project, "particles.star", tmp_path / "store")
    for half, volume in ((1, ours.half1), (2, ours.half2)):
        theirs = reconstruct_with_relion(project, "particles.star", f"half{half}.mrc", "--subset", str(half))
        agreement = fsc(torch.from_numpy(volume), theirs, MASK)
        assert agreement[1 : BOX // 4 + 1].min() > 0.99
        assert agreement[BOX // 2 - 1 :].min() > 0.7  # up to Nyquist, where RELION goes on into the corners
        ratio = amplitude_ratio(torch.from_numpy(volume), theirs)
        print(f"half {half}: FSC {agreement.round(4)}, amplitude ratio {ratio.round(3)}")
        assert np.abs(ratio[2 : BOX // 4 + 1] - 1).max() < 0.05
        truth = fsc(torch.from_numpy(volume), reference(), MASK)
        assert truth[1 : BOX // 4].mean() > fsc(theirs, reference(), MASK)[1 : BOX // 4].mean() - 0.01


def test_densities_are_those_of_the_projected_map(project: Path, tmp_path: Path) -> None:
    ours = torch.from_numpy(reconstruct(project, "particles.star", tmp_path / "store").map)
    ratio = amplitude_ratio(ours, reference())
    assert np.abs(ratio[2 : BOX // 4] - 1).max() < 0.1  # and not their negative:
    assert float((ours * MASK * reference()).sum()) > 0


def test_few_images_agree_too(project: Path, tmp_path: Path) -> None:
    particles = read_particles(project / "particles.star", project).subset(np.arange(80))
    write_particles_star(particles, project / "few.star")
    ours = reconstruct(project, "few.star", tmp_path / "store")
    theirs = reconstruct_with_relion(project, "few.star", "few.mrc", "--subset", "1")
    truth = reference()
    ours_fsc, theirs_fsc = fsc(torch.from_numpy(ours.half1), truth, MASK), fsc(theirs, truth, MASK)
    print(f"80 images: ours {ours_fsc.round(3)}, relion {theirs_fsc.round(3)}")
    assert ours_fsc[1:17].mean() > theirs_fsc[1:17].mean() - 0.02
    assert fsc(torch.from_numpy(ours.half1), theirs, MASK)[1:6].min() > 0.97


@pytest.mark.parametrize("name", ["C3", "D2", "T", "O", "I2"])
def test_symmetrised_maps_agree_with_relion(project: Path, tmp_path: Path, name: str) -> None:
    settings = PreprocessSettings(normalise=False, storage="float32")
    images = open_images(read_particles(project / "particles.star", project), tmp_path / "store", settings)
    ours = backproject(images, symmetry=point_group(name)).solve()
    theirs = reconstruct_with_relion(project, "particles.star", f"{name}.mrc", "--sym", name)
    agreement, ratio = fsc(ours, theirs, MASK), amplitude_ratio(ours, theirs)
    other = fsc(backproject(images).solve(), theirs, MASK)
    print(f"{name}: FSC {agreement.round(4)}, amplitude ratio {ratio.round(3)}, without symmetry {other.round(2)}")
    assert agreement[1 : BOX // 4 + 1].min() > 0.99
    # RELION interpolates its sums once more for the copies; ours hold every copy where it belongs.
    assert np.abs(ratio[2 : BOX // 4 + 1] - 1).max() < 0.1
    assert other[4 : BOX // 4 + 1].max() < 0.9  # the images are those of a density without symmetry


def test_star_files_that_we_wrote_reconstruct_as_the_originals(project: Path) -> None:
    particles = read_particles(project / "particles.star", project)
    original = reconstruct_with_relion(project, "particles.star", "original.mrc")
    # Once with every pose written anew, and once a subset, against the same rows of the text.
    write_particles_star(particles.with_poses(particles.rotation, particles.shift_A), project / "rewritten.star")
    rewritten = reconstruct_with_relion(project, "rewritten.star", "rewritten.mrc")
    assert fsc(original, rewritten).min() > 0.9999
    write_particles_star(
        particles.subset(np.arange(0, N, 3)),
        project / "third.star",
        {"cdxLatent1": np.linspace(0, 1, N // 3).astype(np.float32)},
    )
    lines = star_text("proj.mrcs", N).splitlines()
    first = next(i for i, line in enumerate(lines) if "@" in line)
    chosen = [*lines[:first], *lines[first : first + N : 3], "", ""]
    (project / "third_by_hand.star").write_text("\n".join(chosen))
    third = reconstruct_with_relion(project, "third.star", "third.mrc")
    by_hand = reconstruct_with_relion(project, "third_by_hand.star", "third_by_hand.mrc")
    assert torch.equal(third, by_hand)


def test_premultiplied_images_give_the_same_map(project: Path, tmp_path: Path) -> None:
    """Images of relion_project --ctf2 are noiseless images premultiplied by the CTF."""
    n = 600
    (project / "pre.star").write_text(star_text("pre.mrcs", n, premultiplied=True))
    project_images(project, "pre.star", "pre", 0.02, "--ctf2")
    images = open_images(
        read_particles(project / "pre.star", project), tmp_path / "store", PreprocessSettings(normalise=False)
    )
    assert [optics.premultiplied for optics in images.optics] == [True, True]
    ours = torch.from_numpy(reconstruct_half_maps(images).map)
    agreement, ratio = fsc(ours, reference(), MASK), amplitude_ratio(ours, reference())
    print(f"premultiplied: FSC to the truth {agreement.round(3)}, amplitude ratio {ratio.round(3)}")
    assert agreement[1 : BOX // 4].min() > 0.98
    assert np.abs(ratio[2 : BOX // 4] - 1).max() < 0.1


def test_relion_images_are_white(project: Path) -> None:
    """RELION's own sign: positive density and a CTF that starts at +Q0 give particles brighter than the rest."""
    with mrcfile.open(project / "proj.mrcs", permissive=True) as file:
        images = torch.from_numpy(np.array(file.data, np.float32))
    plane = HalfPlane(BOX, 6)
    average = plane.to_images(plane.from_images(images).mean(0)[None])[0]  # of all directions, low-passed
    centre = average[BOX // 2 - 3 : BOX // 2 + 3, BOX // 2 - 3 : BOX // 2 + 3].mean()
    assert float(centre) > float(average.mean()) + 3 * float(average[:6].std())

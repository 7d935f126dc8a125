"""Damaged, useless and unlike images of a project: named with their reasons; what can be used is used."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cryodrgn_ext.images.dataset import ParticleImages, PreprocessSettings, open_images
from cryodrgn_ext.images.image_remarks import write_remarks
from cryodrgn_ext.metadata.particles import ParticleSet, read_particles
from cryodrgn_ext.metadata.star import read_star
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.simulate import ONE_GROUP, TWO_GROUPS, SimulatedOptics, simulate_particles, write_relion_project

N, BOX = 160, 32
FloatArray = NDArray[np.float32]
Y, X = np.mgrid[:BOX, :BOX] - BOX // 2


def project_of(
    directory: Path,
    change: Callable[[FloatArray], None],
    optics: tuple[SimulatedOptics, ...] = ONE_GROUP,
    dtype: type = np.float32,
    factor: float = 1.0,
) -> ParticleSet:
    """Particles whose images, of noise 1, were changed in place, then written as ``factor`` times themselves."""
    simulated = simulate_particles(N, box_size=BOX, pixel_size_A=8.0, snr=0.1, optics=optics, seed=4)
    write_relion_project(directory, simulated)
    stack = directory / "Particles/particles.mrcs"
    with mrcfile.open(stack) as file:
        images = np.array(file.data)
    change(images)
    with mrcfile.new(stack, overwrite=True) as file:
        scaled = factor * images
        file.set_data((np.round(scaled) if np.issubdtype(dtype, np.integer) else scaled).astype(dtype))
    return read_particles(directory / "particles.star", directory)


def opened(particles: ParticleSet, store: Path) -> tuple[ParticleImages, str]:
    """The images as a Continue opens them, and what is said then."""
    open_images(particles, store, PreprocessSettings(), Monitor(io.StringIO()))
    said = io.StringIO()
    return open_images(particles, store, PreprocessSettings(), Monitor(said)), said.getvalue()


def named(images: ParticleImages, remark: str) -> list[int]:
    return next((found.rows.tolist() for found in images.remarks if found.name == remark), [])


def nothing(images: FloatArray) -> None:
    pass


def test_good_images_get_no_remark(tmp_path: Path) -> None:
    images, said = opened(project_of(tmp_path, nothing, TWO_GROUPS), tmp_path / "store")
    assert images.remarks == ()
    assert "pixel" not in said
    assert "unlike" not in said
    write_remarks(tmp_path / "image_remarks.star", images)
    assert not (tmp_path / "image_remarks.star").exists()


@pytest.mark.parametrize(("dtype", "factor"), [(np.float32, 1.0), (np.float16, 1.0), (np.int8, 12.0), (np.int16, 50.0)])
def test_dust_of_either_sign_is_repaired_and_named(tmp_path: Path, dtype: type, factor: float) -> None:
    dusty = [5, 77]
    height = 9.5 if dtype == np.int8 else 3000.0 if dtype == np.float32 else 500.0

    def change(images: FloatArray) -> None:
        images[5, 20, 11], images[77, 3, 4] = height, -height

    images, said = opened(project_of(tmp_path / "dust", change, dtype=dtype, factor=factor), tmp_path / "store")
    clean, _ = opened(project_of(tmp_path / "clean", nothing, dtype=dtype, factor=factor), tmp_path / "other")
    assert named(images, "outlier_pixels_replaced") == dusty
    assert images.statistics is not None
    assert images.statistics.column("repaired")[dusty].tolist() == [1, 1]
    assert "were replaced by their surroundings in 2 of 160 images" in said
    rows = torch.arange(N)
    difference = (images.batch(rows).coefficients - clean.batch(rows).coefficients).abs()
    assert float(difference.max()) < 0.2
    assert not images.unusable.any()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_useless_images_weigh_nothing_and_stay_rows(tmp_path: Path) -> None:
    def change(images: FloatArray) -> None:
        images[7], images[20] = 0.0, 1.0  # two constant ones are no duplicates of each other
        images[30] = np.nan
        images[41, ::3, ::2] = 1e6

    images, said = opened(project_of(tmp_path, change), tmp_path / "store")
    assert images.n == N
    assert np.flatnonzero(images.unusable).tolist() == [7, 20, 30, 41]
    assert named(images, "constant_background") == [7, 20]
    assert named(images, "pixels_that_are_not_finite_numbers") == [30]
    assert named(images, "destroyed") == [41]
    assert "4 of 160 images cannot be used" in said
    assert "duplicate" not in said
    batch = images.batch(torch.arange(N))
    bad = torch.from_numpy(images.unusable)
    assert not batch.ctf[bad].any()
    assert not batch.coefficients[bad].any()
    assert batch.ctf[~bad].abs().amax(1).min() > 0


def test_the_table_names_images_with_reasons(tmp_path: Path) -> None:
    def change(images: FloatArray) -> None:
        images[3] = 0.0
        images[8, 4, 4] = 1e4

    particles = project_of(tmp_path, change)
    images, _ = opened(particles, tmp_path / "store")
    write_remarks(tmp_path / "image_remarks.star", images)
    table = read_star(tmp_path / "image_remarks.star").blocks["images"]
    assert table.text("rlnImageName").tolist() == [particles.image_name[row] for row in (3, 8)]
    assert table.text("cdxRow").tolist() == ["4", "9"]
    assert table.text("cdxRemark").tolist() == ["constant_background", "outlier_pixels_replaced"]


def test_unlike_images_are_named_and_kept(tmp_path: Path) -> None:
    def change(images: FloatArray) -> None:
        images[:] = 100 + images
        images[11] = 100 + 3 * (images[11] - 100)  # a thin place of the ice, or another exposure
        images[12] += 20  # carbon
        images[13] += 6 * X  # an edge
        images[14, 10:24] += 60  # a bright line wider than dust

    images, said = opened(project_of(tmp_path, change), tmp_path / "store")
    assert named(images, "background_spread")[0] == 11
    assert 12 in named(images, "background_level")
    assert named(images, "gradient") == [13]
    assert 14 in {row for remark in images.remarks for row in remark.rows.tolist()}
    assert not images.unusable.any()
    assert "are unlike others of their micrograph or optics group" in said


def test_optics_groups_are_compared_within_themselves(tmp_path: Path) -> None:
    def change(images: FloatArray) -> None:
        images[N // 2 :] *= 7.0  # raw counts of another detector

    particles = project_of(tmp_path, change, TWO_GROUPS)
    scaled = particles.optics_index[N // 2 :]
    if len(np.unique(scaled)) == 1:  # the groups are the halves of the file
        images, _ = opened(particles, tmp_path / "store")
        assert images.remarks == ()


def test_a_quadratic_background_leaves_less_than_it_brought(tmp_path: Path) -> None:
    """A bowl of one sigma is no plane; what is left of it is in the lowest shells, and named by nothing."""

    def change(images: FloatArray) -> None:
        images += (X**2 + Y**2) / (BOX / 2) ** 2

    images, said = opened(project_of(tmp_path / "bowl", change), tmp_path / "store")
    clean, _ = opened(project_of(tmp_path / "clean", nothing), tmp_path / "other")
    assert "unlike" not in said
    rows, shell = torch.arange(N), images.plane.prefix(3)
    difference = images.batch(rows).coefficients - clean.batch(rows).coefficients
    assert float(difference[:, shell:].abs().mean()) < 0.35

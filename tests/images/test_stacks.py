"""Stacks: images by (stack, section) in any order, and the mismatches that are refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.stacks import OPEN_STACKS, ImageStacks


def write_stack(path: Path, data: np.ndarray) -> Path:
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(data)
        file.set_image_stack()
    return path


@pytest.fixture
def stacks(tmp_path: Path) -> tuple[ImageStacks, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(n, 8, 8)).astype(dtype) for n, dtype in ((5, "f4"), (3, "f2"), (4, "f4"))]
    return ImageStacks([write_stack(tmp_path / f"{i}.mrcs", d) for i, d in enumerate(data)]), data


def test_images_come_in_the_order_asked_for(stacks: tuple[ImageStacks, list[np.ndarray]]) -> None:
    reader, data = stacks
    stack = np.array([0, 0, 0, 2, 1, 1, 0])
    section = np.array([1, 2, 3, 0, 2, 0, 4])
    found = reader.read(stack, section, 8)
    assert found.dtype == np.float32
    for image, a, b in zip(found, stack, section, strict=True):
        assert np.array_equal(image, data[a][b].astype(np.float32))


def test_more_stacks_than_are_held_open(tmp_path: Path) -> None:
    count = OPEN_STACKS + 10
    paths = [write_stack(tmp_path / f"{i}.mrcs", np.full((1, 8, 8), i, np.float32)) for i in range(count)]
    reader = ImageStacks(paths)
    everything = reader.read(np.arange(count), np.zeros(count, np.int64), 8)
    assert np.array_equal(everything[:, 0, 0], np.arange(count))
    assert reader.read(np.array([0]), np.array([0]), 8)[0, 0, 0] == 0


@pytest.mark.parametrize(
    ("section", "box", "pattern"),
    [
        (5, 8, r"holds 5 images, but image 6 is asked for"),
        (0, 10, r"holds images of 8 px, but the metadata say 10 px"),
    ],
)
def test_what_the_metadata_promise_must_be_there(
    stacks: tuple[ImageStacks, list[np.ndarray]], section: int, box: int, pattern: str
) -> None:
    with pytest.raises(InputError, match=pattern):
        stacks[0].read(np.array([0]), np.array([section]), box)


def test_images_must_be_square(tmp_path: Path) -> None:
    reader = ImageStacks([write_stack(tmp_path / "a.mrcs", np.zeros((2, 8, 10), np.float32))])
    with pytest.raises(InputError, match="images of 10 x 8 px: they must be square"):
        reader.read(np.array([0]), np.array([0]), 8)


@pytest.mark.parametrize("axes", [(2, 1, 3), (3, 2, 1)])
def test_images_of_permuted_axes_are_refused(tmp_path: Path, axes: tuple[int, int, int]) -> None:
    path = write_stack(tmp_path / "a.mrcs", np.zeros((8, 8, 8), np.float32))
    with mrcfile.open(path, "r+") as file:
        file.header.mapc, file.header.mapr, file.header.maps = axes
    with pytest.raises(InputError, match=r"a\.mrcs stores its images with the axes .* mirrored images"):
        ImageStacks([path]).read(np.array([0]), np.array([0]), 8)


def test_unsigned_bytes_of_imod(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8)).astype(np.uint8)
    path = write_stack(tmp_path / "a.mrcs", pixels.view(np.int8))
    with mrcfile.open(path, "r+") as file:
        file.header["extra2"] = np.void((bytes(40) + np.array([1146047817, 0], "<i4").tobytes()).ljust(84, b"\0"))
        file.header.dmin, file.header.dmax = 0, 0
    found = ImageStacks([path]).read(np.array([0, 0]), np.array([2, 0]), 8)
    assert np.array_equal(found, pixels[[2, 0]].astype(np.float32))


def test_compressed_stacks_are_refused_with_the_way_out(tmp_path: Path) -> None:
    path = write_stack(tmp_path / "a.mrcs", np.zeros((2, 8, 8), np.float32))
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match=r"a\.mrcs is compressed \(gzip\): decompress it first \(gunzip\)"):
        ImageStacks([path]).read(np.array([0]), np.array([0]), 8)

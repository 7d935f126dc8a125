"""The MRC header parser against mrcfile, and its refusals."""

from __future__ import annotations

import struct
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.mrc import read_mrc_header


def write(path: Path, data: np.ndarray, pixel_size_A: float = 1.5, extended: bytes = b"") -> Path:
    with mrcfile.new(path, overwrite=True) as file:
        if extended:
            file.set_extended_header(np.frombuffer(extended, dtype="S1"))
        file.set_data(data)
        file.voxel_size = pixel_size_A
    return path


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float16", "float32"])
@pytest.mark.parametrize("extended", [b"", b"x" * 160])
def test_pixels_are_those_that_mrcfile_wrote(tmp_path: Path, dtype: str, extended: bytes) -> None:
    data = (np.arange(3 * 4 * 6).reshape(3, 4, 6) % 100).astype(dtype)
    header = read_mrc_header(write(tmp_path / "a.mrcs", data, extended=extended))
    assert (header.nx, header.ny, header.nz) == (6, 4, 3)
    assert header.offset == 1024 + len(extended)
    assert header.pixel_size_A == pytest.approx(1.5)
    assert np.array_equal(header.memory_map(), data)


def test_big_endian_files_are_read(tmp_path: Path) -> None:
    data = np.arange(2 * 4 * 4, dtype=">f4").reshape(2, 4, 4)
    header = bytearray(1024)
    struct.pack_into(">4i", header, 0, 4, 4, 2, 2)
    header[208:216] = b"MAP \x11\x11\0\0"
    (tmp_path / "big.mrcs").write_bytes(bytes(header) + data.tobytes())
    assert np.array_equal(read_mrc_header(tmp_path / "big.mrcs").memory_map(), data)


def test_a_header_without_pixel_size_says_zero(tmp_path: Path) -> None:
    assert read_mrc_header(write(tmp_path / "a.mrcs", np.zeros((1, 4, 4), "f4"), 0.0)).pixel_size_A == 0.0


def truncated(path: Path) -> None:
    write(path, np.zeros((10, 8, 8), "f4"))
    with open(path, "rb+") as handle:
        handle.truncate(1024 + 3 * 256 + 17)


def complex_pixels(path: Path) -> None:
    write(path, np.zeros((2, 8, 8), "complex64"))


def unknown_mode(path: Path) -> None:
    write(path, np.zeros((2, 8, 8), "f4"))
    with open(path, "rb+") as handle:
        handle.seek(12)
        handle.write(struct.pack("<i", 77))


BROKEN = {
    "truncated": (truncated, r"is truncated: its header promises 10 images .* has 3 whole images"),
    "complex": (complex_pixels, r"mode 4 \(complex float32\)"),
    "unknown mode": (unknown_mode, r"mode 77 \(unknown\)"),
    "text": (lambda path: path.write_text("not an image\n" * 200), "is not an MRC file"),
    "empty": (lambda path: path.write_bytes(b""), "has 0 bytes"),
    "zeros": (lambda path: path.write_bytes(bytes(5000)), "is not an MRC file"),
    "folder": (lambda path: path.mkdir(), "cannot be read"),
    "missing": (lambda path: None, "does not exist"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    make, pattern = BROKEN[name]
    path = tmp_path / "broken.mrcs"
    make(path)
    with pytest.raises(InputError, match=pattern) as caught:
        read_mrc_header(path).memory_map()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["u1", "i1"])
@pytest.mark.parametrize("extremes", [(0.0, 0.0), (0.0, -1.0)])
def test_bytes_of_unknown_sign_are_read_as_their_pixels_scatter(
    kind: str, extremes: tuple[float, float], tmp_path: Path
) -> None:
    """Neither extremes nor IMOD's stamp in the header, as EMAN 1 and others leave it."""
    middle = 128 if kind == "u1" else 0
    data = np.clip(np.random.default_rng(3).normal(middle + 4, 25, (9, 32, 32)), middle - 127, middle + 127)
    data[0] = 0  # a blank image tells nothing
    path = write(tmp_path / "a.mrcs", data.astype(kind).view(np.int8))
    raw = bytearray(path.read_bytes())
    struct.pack_into("<2f", raw, 76, *extremes)
    path.write_bytes(raw)
    assert np.array_equal(read_mrc_header(path).memory_map(), data.astype(kind))

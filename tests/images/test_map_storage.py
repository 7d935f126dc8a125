"""Maps however they are stored: the density in space is the same, with gemmi and mrcfile as judges."""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
import struct
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.maps import read_map, write_map
from cryodrgn_ext.metadata.mrc import read_mrc_header

BOX, PIXEL_A = 10, 2.5
ORDERS = list(itertools.permutations((1, 2, 3)))


@pytest.fixture
def density() -> NDArray[np.float32]:
    """(z, y, x) values that no axis permutation or reflection leaves alone."""
    return np.random.default_rng(0).normal(size=(BOX, BOX, BOX)).astype(np.float32)


def stored(
    path: Path,
    density: NDArray[np.generic],
    axes: tuple[int, int, int] = (1, 2, 3),
    order: str = "<",
    extended: bytes = b"",
    fields: tuple[tuple[int, str, tuple[float, ...]], ...] = (),
    kind: str | None = None,
) -> Path:
    """Write (z, y, x) values with columns, rows and sections along ``axes``, byte by byte after MRC2014."""
    c, r, s = axes
    data = density.transpose(3 - s, 3 - r, 3 - c)
    kind = data.dtype.str[1:] if kind is None else kind
    mode = {"i1": 0, "u1": 0, "i2": 1, "f4": 2, "u2": 6, "f2": 12, "c8": 4}[kind]
    head = bytearray(1024)
    struct.pack_into(order + "10i", head, 0, *data.shape[::-1], mode, 0, 0, 0, *density.shape[::-1])
    cell = [n * PIXEL_A for n in density.shape[::-1]]
    struct.pack_into(order + "6f", head, 40, *cell, 90, 90, 90)
    struct.pack_into(order + "3i", head, 64, c, r, s)
    struct.pack_into(order + "3f", head, 76, data.real.min(), data.real.max(), data.real.mean())
    struct.pack_into(order + "2i", head, 88, 1, len(extended))
    head[208:216] = b"MAP " + (b"DD\0\0" if order == "<" else b"\x11\x11\0\0")
    for offset, form, values in fields:
        struct.pack_into(order + form, head, offset, *values)
    path.write_bytes(bytes(head) + extended + np.ascontiguousarray(data, order + kind).tobytes())
    return path


def gemmi_density(path: Path) -> NDArray[np.float32]:
    """(z, y, x) density as gemmi understands the file."""
    ccp4 = gemmi.read_ccp4_map(str(path), setup=True)
    return np.array(ccp4.grid.array).transpose(2, 1, 0)


@pytest.mark.parametrize("axes", ORDERS)
@pytest.mark.parametrize("order", "<>")
def test_every_axis_order_is_the_same_density(
    tmp_path: Path, density: NDArray[np.float32], axes: tuple[int, int, int], order: str
) -> None:
    path = stored(tmp_path / "emd.map", density, axes, order)
    found = read_map(path)
    assert np.array_equal(found.data, density)
    assert np.array_equal(found.data, gemmi_density(path))
    assert found.data.flags.c_contiguous
    assert found.pixel_size_A == pytest.approx(PIXEL_A)
    assert any("1, 2, 3" in note for note in found.notes) == (axes != (1, 2, 3))


@pytest.mark.parametrize("axes", ORDERS)
def test_oblong_maps_are_named_by_their_size_in_space(tmp_path: Path, axes: tuple[int, int, int]) -> None:
    path = stored(tmp_path / "a.map", np.zeros((4, 6, 8), np.float32), axes)
    assert gemmi_density(path).shape == (4, 6, 8)
    with pytest.raises(InputError, match=r"size is 8 x 6 x 4 \(x, y, z\)"):
        read_map(path)


def test_pixel_size_follows_space_where_axes_are_permuted(tmp_path: Path, density: NDArray[np.float32]) -> None:
    # Twice as many samples along the cell's x as the map has columns: cell over sampling, not over columns.
    fields = ((28, "3i", (2 * BOX, BOX, BOX)), (40, "3f", (2 * BOX * PIXEL_A, BOX * PIXEL_A, BOX * PIXEL_A)))
    found = read_map(stored(tmp_path / "a.map", density, (3, 1, 2), fields=fields))
    assert found.pixel_size_A == pytest.approx(PIXEL_A)
    wrong = stored(tmp_path / "b.map", density, (3, 1, 2), fields=((40, "3f", (25.0, 25.0, 50.0)),))
    with mrcfile.open(wrong, header_only=True) as file:
        assert float(file.voxel_size.z) == pytest.approx(5.0)
    with pytest.raises(InputError, match=r"voxels of 2\.5000 x 2\.5000 x 5\.0000 Å \(x, y, z\)"):
        read_map(wrong)


@pytest.mark.parametrize("axes", [(1, 1, 3), (0, 2, 3), (4, 2, 1), (-1, 2, 3)])
def test_axes_that_are_no_permutation_are_refused(
    tmp_path: Path, density: NDArray[np.float32], axes: tuple[int, int, int]
) -> None:
    path = stored(tmp_path / "a.map", density, fields=((64, "3i", axes),))
    with pytest.raises(InputError, match=r"a\.map has the axes .* its hand, cannot be known"):
        read_map(path)


def test_files_without_axes_mean_the_natural_order(tmp_path: Path, density: NDArray[np.float32]) -> None:
    assert np.array_equal(read_map(stored(tmp_path / "a.mrc", density, fields=((64, "3i", (0, 0, 0)),))).data, density)


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
@pytest.mark.parametrize("axes", [(1, 2, 3), (3, 2, 1)])
def test_compressed_maps_are_read(
    tmp_path: Path, density: NDArray[np.float32], suffix: str, compress: object, axes: tuple[int, int, int]
) -> None:
    plain = stored(tmp_path / "emd_1.map", density, axes, extended=b"x" * 80)
    path = tmp_path / f"emd_1.map.{suffix}"
    path.write_bytes(compress(plain.read_bytes()))  # type: ignore[operator]
    found = read_map(path)
    assert np.array_equal(found.data, density)
    if suffix == "gz":
        assert np.array_equal(found.data, gemmi_density(path))


def test_compression_is_seen_by_content_not_by_name(tmp_path: Path, density: NDArray[np.float32]) -> None:
    plain = stored(tmp_path / "plain.map.gz", density)  # the browser decompressed it, the name stayed
    assert np.array_equal(read_map(plain).data, density)
    (tmp_path / "packed.mrc").write_bytes(gzip.compress(plain.read_bytes()))
    assert np.array_equal(read_map(tmp_path / "packed.mrc").data, density)


@pytest.mark.parametrize("cut", [20, 700])
def test_damaged_compressed_maps_are_refused(tmp_path: Path, density: NDArray[np.float32], cut: int) -> None:
    whole = gzip.compress(stored(tmp_path / "a.map", density).read_bytes())
    (tmp_path / "a.map.gz").write_bytes(whole[: len(whole) - cut])
    with pytest.raises(InputError, match=r"a\.map\.gz is compressed \(gzip\), but damaged .*copy it again"):
        read_map(tmp_path / "a.map.gz")
    (tmp_path / "b.map.gz").write_bytes(gzip.compress((tmp_path / "a.map").read_bytes()[:3000]))
    with pytest.raises(InputError, match=r"b\.map\.gz is truncated"):
        read_map(tmp_path / "b.map.gz")


@pytest.mark.parametrize(("magic", "name"), [(b"PK\x03\x04", "unzip"), (b"\x28\xb5\x2f\xfd", "unzstd")])
def test_other_compressions_are_named(tmp_path: Path, magic: bytes, name: str) -> None:
    (tmp_path / "a.mrc").write_bytes(magic + bytes(5000))
    with pytest.raises(InputError, match=rf"a\.mrc is compressed .*\({name}\)"):
        read_map(tmp_path / "a.mrc")
    with pytest.raises(InputError, match=rf"decompress it first \({name}\)"):
        read_mrc_header(tmp_path / "a.mrc")


@pytest.mark.parametrize("kind", ["i1", "i2", "u2", "f2", "f4"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("extended", [0, 4096])
def test_modes_byte_orders_and_extended_headers(tmp_path: Path, kind: str, order: str, extended: int) -> None:
    values = (np.arange(BOX**3).reshape(BOX, BOX, BOX) % 120).astype(kind)
    path = stored(tmp_path / "a.mrc", values, order=order, extended=b"\x7f" * extended)
    found = read_map(path)
    assert np.array_equal(found.data, values.astype(np.float32))
    with mrcfile.open(path) as file:
        assert np.array_equal(found.data, file.data.astype(np.float32))


@pytest.mark.parametrize("box", [16, 256, 512])
@pytest.mark.parametrize("stamped", [True, False])
def test_big_endian_bytes_of_boxes_that_make_sense_in_both_orders(tmp_path: Path, box: int, stamped: bool) -> None:
    images = np.ones((2, box, box), np.int8)
    path = stored(tmp_path / "a.mrcs", images, order=">")
    if not stamped:
        raw = bytearray(path.read_bytes())
        raw[208:216] = bytes(8)
        path.write_bytes(bytes(raw))
    header = read_mrc_header(path)
    assert (header.nx, header.ny, header.nz) == (box, box, 2)


def test_a_wrong_machine_stamp_is_seen_through(tmp_path: Path, density: NDArray[np.float32]) -> None:
    path = stored(tmp_path / "a.mrc", density, order=">")
    raw = bytearray(path.read_bytes())
    raw[212:216] = b"DA\0\0"
    path.write_bytes(bytes(raw))
    assert np.array_equal(read_map(path).data, density)


IMOD = (152, "2i", (1146047817, 0))
IMOD_SIGNED = (152, "2i", (1146047817, 1))


@pytest.mark.parametrize(
    ("top", "fields", "unsigned"),
    [
        (255, (), True),  # the maximum in the header is no int8
        (255, ((76, "3f", (0.0, -1.0, -2.0)),), False),  # MRC2014: no statistics, signed
        (255, (IMOD, (76, "3f", (0.0, 0.0, 0.0))), True),
        (255, (IMOD_SIGNED, (76, "3f", (0.0, 0.0, 0.0))), False),
        (100, (IMOD,), True),
        (100, (), True),  # the same either way
    ],
)
def test_bytes_are_signed_or_not_as_the_header_proves(
    tmp_path: Path, top: int, fields: tuple[tuple[int, str, tuple[float, ...]], ...], unsigned: bool
) -> None:
    values = (np.arange(BOX**3).reshape(BOX, BOX, BOX) % (top + 1)).astype(np.uint8)
    found = read_map(stored(tmp_path / "a.mrc", values, fields=fields))
    assert np.array_equal(found.data, values.astype(np.float32) if unsigned else values.view(np.int8).astype("f4"))


def test_bytes_below_zero_are_signed_whatever_imod_says(tmp_path: Path) -> None:
    values = (np.arange(BOX**3).reshape(BOX, BOX, BOX) % 200 - 100).astype(np.int8)
    assert np.array_equal(read_map(stored(tmp_path / "a.mrc", values, fields=(IMOD,))).data, values.astype("f4"))


@pytest.mark.parametrize(
    ("mode", "name"), [(3, "complex int16"), (4, "complex float32"), (101, "4-bit"), (7, "unknown")]
)
def test_other_modes_are_refused_by_name(tmp_path: Path, density: NDArray[np.float32], mode: int, name: str) -> None:
    with pytest.raises(InputError, match=rf"mode {mode} \({name}\), which is not supported: convert it"):
        read_map(stored(tmp_path / "a.mrc", density, fields=((12, "i", (mode,)),)))


@pytest.mark.parametrize(
    "fields",
    [
        ((28, "3i", (0, 0, 0)),),
        ((40, "3f", (0.0, 0.0, 0.0)),),
        ((40, "3f", (float("nan"), float("inf"), -3.0)),),
    ],
)
def test_no_pixel_size_is_said(
    tmp_path: Path, density: NDArray[np.float32], fields: tuple[tuple[int, str, tuple[float, ...]], ...]
) -> None:
    found = read_map(stored(tmp_path / "a.mrc", density, fields=fields))
    assert found.pixel_size_A == 0.0
    assert any("no pixel size" in note for note in found.notes)


def test_an_edge_that_is_missing_is_taken_from_the_others(tmp_path: Path, density: NDArray[np.float32]) -> None:
    found = read_map(stored(tmp_path / "a.mrc", density, fields=((40, "3f", (0.0, 25.0, 25.0)),)))
    assert found.pixel_size_A == pytest.approx(PIXEL_A)


def test_rounding_of_the_cell_is_no_anisotropy(tmp_path: Path, density: NDArray[np.float32]) -> None:
    read_map(stored(tmp_path / "a.mrc", density, fields=((40, "3f", (25.0, 25.01, 24.99)),)))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ((), False),
        (((16, "3i", (-BOX // 2,) * 3),), False),  # as ChimeraX and EMDB centre maps
        (((196, "3f", (-12.5, -12.5, -12.5)),), False),
        (((16, "3i", (3, 0, 0)),), True),
        (((196, "3f", (0.0, 40.0, 0.0)),), True),
    ],
)
def test_the_place_in_space_is_not_used_but_said(
    tmp_path: Path, density: NDArray[np.float32], fields: tuple[tuple[int, str, tuple[float, ...]], ...], said: bool
) -> None:
    found = read_map(stored(tmp_path / "a.mrc", density, fields=fields))
    assert np.array_equal(found.data, density)
    assert any("not used" in note for note in found.notes) == said


def test_where_a_map_of_permuted_axes_begins(tmp_path: Path, density: NDArray[np.float32]) -> None:
    # NCSTART, NRSTART, NSSTART go with columns, rows and sections, not with x, y, z.
    header = read_mrc_header(stored(tmp_path / "a.mrc", density, (3, 1, 2), fields=((16, "3i", (1, 2, 3)),)))
    assert header.first_voxel_A == pytest.approx((2 * PIXEL_A, 3 * PIXEL_A, 1 * PIXEL_A))


def test_oblique_cells_and_stacks_of_maps_are_refused(tmp_path: Path, density: NDArray[np.float32]) -> None:
    with pytest.raises(InputError, match="angles of 90, 90, 120 degrees"):
        read_map(stored(tmp_path / "a.mrc", density, fields=((52, "3f", (90.0, 90.0, 120.0)),)))
    with pytest.raises(InputError, match="is a stack of maps"):
        read_map(stored(tmp_path / "a.mrc", density, fields=((88, "i", (401,)),)))


@pytest.mark.parametrize(("magic", "name"), [(b"II*\0", "TIFF"), (b"\x89HDF", "HDF5"), (b"\x93NUMPY", "numpy")])
def test_other_formats_are_named(tmp_path: Path, magic: bytes, name: str) -> None:
    (tmp_path / "a.mrc").write_bytes(magic + b"\xff" * 5000)
    with pytest.raises(InputError, match=f"not an MRC file, but an? {name} file"):
        read_map(tmp_path / "a.mrc")


def test_what_we_write_is_natural_for_gemmi_and_mrcfile(tmp_path: Path, density: NDArray[np.float32]) -> None:
    write_map(tmp_path / "a.mrc", density, PIXEL_A, None)
    assert np.array_equal(gemmi_density(tmp_path / "a.mrc"), density)
    assert mrcfile.validate(tmp_path / "a.mrc")

"""The coefficient store: what is written is read, half stores are not taken for whole ones, full disks are told."""

from __future__ import annotations

import errno
import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.image_table import ImageTable, hash_images
from cryodrgn_ext.images.store import StoreHeader, StoreWriter, open_store, rows_in_store

M = 12


def table_of(tmp_path: Path, stack: list[int], section: list[int], group: list[int] | None = None) -> ImageTable:
    paths = []
    for i in range(max(stack) + 1):
        (tmp_path / f"stack{i}.mrcs").write_bytes(b"pixels")
        paths.append(tmp_path / f"stack{i}.mrcs")
    groups = np.zeros(len(stack), np.int64) if group is None else np.array(group)
    return ImageTable.make(tuple(paths), np.array(stack), np.array(section), groups)


def header_of(table: ImageTable, storage: str = "float32", **settings: object) -> StoreHeader:
    return StoreHeader(
        settings={"box_size": 16, "storage": storage, **settings},
        groups=[{"name": "a"}, {"name": "b"}],
        stacks=table.fingerprints(),
        images_sha256=hash_images(table),
        n_images=len(table),
        n_coefficients=M,
        measured={},
    )


def values_of(n: int) -> torch.Tensor:
    return torch.randn(n, M, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))


def build(directory: Path, table: ImageTable, header: StoreHeader) -> StoreHeader:
    writer = StoreWriter(directory, header, table)
    writer.append(values_of(len(table)))
    writer.close()
    return writer.header


def test_images_are_listed_once_in_file_order(tmp_path: Path) -> None:
    table = table_of(tmp_path, stack=[1, 0, 0, 1, 1], section=[3, 9, 2, 3, 0])
    assert table.stack.tolist() == [0, 0, 1, 1]
    assert table.section.tolist() == [2, 9, 0, 3]
    assert table.row_of_particle.tolist() == [3, 1, 0, 3, 2]


def test_an_image_in_two_optics_groups_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"image 6@.*stack0.mrcs \(row 2\) belongs to different optics groups"):
        table_of(tmp_path, [0, 0], [5, 5], [0, 1])


@pytest.mark.parametrize(("storage", "tolerance"), [("float32", 0.0), ("float16", 1e-3)])
def test_rows_come_back_for_each_particle(tmp_path: Path, storage: str, tolerance: float) -> None:
    table = table_of(tmp_path, stack=[0, 0, 0, 0], section=[3, 1, 3, 0])
    header = build(tmp_path / "store", table, header_of(table, storage))
    assert header.complete
    source = open_store(tmp_path / "store", header, table.row_of_particle)
    values = values_of(3)[[2, 1, 2, 0]]
    assert torch.allclose(source.gather(torch.arange(4), M), values, rtol=tolerance, atol=tolerance)
    assert torch.equal(source.gather(torch.tensor([1]), 5), source.gather(torch.tensor([1]), M)[:, :5])


def test_an_interrupted_build_continues_where_it_was(tmp_path: Path) -> None:
    table = table_of(tmp_path, [0] * 6, list(range(6)))
    whole = build(tmp_path / "whole", table, header_of(table))
    writer = StoreWriter(tmp_path / "parts", header_of(table), table)
    writer.append(values_of(6)[:4])
    writer.close()
    half = StoreHeader.read(tmp_path / "parts")
    assert half is not None
    assert not half.complete
    assert half.images_done == 4
    writer = StoreWriter(tmp_path / "parts", half, table)
    writer.append(values_of(6)[4:])
    writer.close()
    assert writer.header == whole
    assert (tmp_path / "parts/coefficients.bin").read_bytes() == (tmp_path / "whole/coefficients.bin").read_bytes()


def test_values_too_large_for_float16_are_refused(tmp_path: Path) -> None:
    table = table_of(tmp_path, [0], [0])
    writer = StoreWriter(tmp_path / "store", header_of(table, "float16"), table)
    with pytest.raises(InputError, match="reaches 7e\\+04, too large for float16"):
        writer.append(torch.full((1, M), 7e4, dtype=torch.complex64))
    writer.close()


def test_a_full_disk_is_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of(tmp_path, [0] * 3, [0, 1, 2])

    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match=r"no room for the coefficient store in .* it needs"):
        StoreWriter(tmp_path / "store", header_of(table), table)
    assert StoreHeader.read(tmp_path / "store") is None
    assert not (tmp_path / "store/coefficients.bin").exists()


def test_a_limit_of_the_operating_system_is_told_too(tmp_path: Path) -> None:
    table = table_of(tmp_path, [0] * 2000, list(range(2000)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(InputError, match="no room for the coefficient store"):
            StoreWriter(tmp_path / "store", header_of(table), table)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_subset_is_served_in_its_own_order(tmp_path: Path) -> None:
    table = table_of(tmp_path, [0, 0, 1, 1], [0, 1, 0, 1])
    header = build(tmp_path / "store", table, header_of(table))
    part = ImageTable.make((tmp_path / "stack1.mrcs", tmp_path / "stack0.mrcs"), *np.array([[1, 0], [1, 0], [0, 0]]))
    rows = rows_in_store(tmp_path / "store", header, part, header_of(part))
    assert isinstance(rows, np.ndarray)
    # particle 0 is image 1 of stack0 (row 1 of the store), particle 1 is image 0 of stack1 (row 2)
    assert rows[part.row_of_particle].tolist() == [1, 2]


def test_why_a_store_does_not_serve(tmp_path: Path) -> None:
    table = table_of(tmp_path, [0, 0], [0, 1])
    header = build(tmp_path / "store", table, header_of(table))

    def reason(other: ImageTable, wanted: StoreHeader) -> str:
        found = rows_in_store(tmp_path / "store", header, other, wanted)
        assert isinstance(found, str)
        return found

    assert reason(table, header_of(table, box_size=8)) == "it was made with box_size = 16, now 8 is asked for"
    more = table_of(tmp_path, [0, 0, 0], [0, 1, 7])
    os.utime(tmp_path / "stack0.mrcs", ns=(0, header.stacks[0]["mtime_ns"]))
    assert reason(more, header_of(more)) == f"it lacks image 8@{tmp_path}/stack0.mrcs"
    elsewhere = table_of(tmp_path, [1], [0])
    os.utime(tmp_path / "stack0.mrcs", ns=(0, header.stacks[0]["mtime_ns"]))
    assert "does not hold the images of" in reason(elsewhere, header_of(elsewhere))
    (tmp_path / "stack0.mrcs").write_bytes(b"other pixels")
    assert reason(table, header_of(table)).endswith("stack0.mrcs has changed since")


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("{", "cannot be read"),
        ('{"format": 99}', "another version"),
        ('{"format": 1, "key": "x"}', "is damaged"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path: Path, text: str, pattern: str) -> None:
    (tmp_path / "store.json").write_text(text)
    with pytest.raises(InputError, match=pattern):
        StoreHeader.read(tmp_path)


def test_a_header_that_was_edited_is_refused(tmp_path: Path) -> None:
    table = table_of(tmp_path, [0], [0])
    build(tmp_path / "store", table, header_of(table))
    path = tmp_path / "store/store.json"
    content = json.loads(path.read_text())
    content["settings"]["box_size"] = 8
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="was changed after it was written"):
        StoreHeader.read(tmp_path / "store")


def test_a_data_file_of_the_wrong_size_is_refused(tmp_path: Path) -> None:
    table = table_of(tmp_path, [0], [0])
    header = build(tmp_path / "store", table, header_of(table))
    with open(tmp_path / "store/coefficients.bin", "ab") as handle:
        handle.write(b"x")
    with pytest.raises(InputError, match="has 97 bytes, expected 96"):
        open_store(tmp_path / "store", header, table.row_of_particle)

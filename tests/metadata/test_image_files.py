from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.image_files import find_project_directory, read_stack_header


@pytest.mark.parametrize(("dtype", "mode"), [("int8", 0), ("int16", 1), ("float32", 2), ("uint16", 6), ("float16", 12)])
def test_headers_that_mrcfile_wrote(dtype: str, mode: int, tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "a.mrcs") as stack:
        stack.set_data(np.zeros((3, 6, 8), dtype))
        stack.set_extended_header(np.zeros(40, np.uint8).view("V1"))
    header = read_stack_header(tmp_path / "a.mrcs")
    assert (header.width, header.height, header.n_images, header.mode) == (8, 6, 3, mode)
    assert header.n_complete == 3


def test_other_byte_order(tmp_path: Path) -> None:
    header = bytearray(1024)
    struct.pack_into(">4i", header, 0, 8, 8, 5, 2)
    (tmp_path / "a.mrcs").write_bytes(bytes(header) + bytes(5 * 64 * 4))
    assert read_stack_header(tmp_path / "a.mrcs").n_images == 5


def test_truncated_stack_is_counted(write_stack: Callable[..., Path], tmp_path: Path) -> None:
    header = read_stack_header(write_stack(tmp_path / "a.mrcs", 5, box=8, cut=1))
    assert (header.n_images, header.n_complete) == (5, 4)
    assert read_stack_header(write_stack(tmp_path / "a.mrcs", 5, box=8, cut=5 * 256)).n_complete == 0


def test_files_that_are_no_stacks(write_stack: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "short.mrcs").write_bytes(b"abc")
    with pytest.raises(InputError, match=r"short\.mrcs: is no MRC stack: 3 bytes"):
        read_stack_header(tmp_path / "short.mrcs")
    (tmp_path / "text.mrcs").write_bytes(b"text " * 1000)
    with pytest.raises(InputError, match="no sensible dimensions"):
        read_stack_header(tmp_path / "text.mrcs")
    with pytest.raises(InputError, match="MRC mode 4 is not supported"):
        read_stack_header(write_stack(tmp_path / "complex.mrcs", 2, mode=4))
    with pytest.raises(InputError, match="does not exist"):
        read_stack_header(tmp_path / "none.mrcs")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_stack_header(tmp_path)


def test_project_directory(write_stack: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    star = project / "Refine3D" / "job020" / "run_data.star"
    star.parent.mkdir(parents=True)
    elsewhere.mkdir()
    name = "Extract/job012/mic0.mrcs"
    monkeypatch.chdir(elsewhere)
    # nowhere: the working directory
    assert find_project_directory(star, name, None) == elsewhere
    # upward from the file, also when it is given relative to the working directory
    write_stack(project / name, 2)
    assert find_project_directory(star, name, None) == project
    assert find_project_directory(Path(os.path.relpath(star)), name, None) == project
    # the nearest wins
    write_stack(star.parent / name, 2)
    assert find_project_directory(star, name, None) == star.parent
    # the working directory comes first
    write_stack(elsewhere / name, 2)
    assert find_project_directory(star, name, None) == elsewhere
    # what the user says comes before all
    assert find_project_directory(star, name, project) == project
    with pytest.raises(InputError, match="is not a directory"):
        find_project_directory(star, name, tmp_path / "nothing")

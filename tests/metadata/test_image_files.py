from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.image_files import find_project_directory
from cryodrgn_ext.metadata.mrc import read_mrc_header


def test_truncated_stack_is_counted(write_stack: Callable[..., Path], tmp_path: Path) -> None:
    header = read_mrc_header(write_stack(tmp_path / "a.mrcs", 5, box=8, cut=1))
    assert (header.nz, header.n_complete) == (5, 4)
    assert read_mrc_header(write_stack(tmp_path / "a.mrcs", 5, box=8, cut=5 * 256)).n_complete == 0


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

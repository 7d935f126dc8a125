"""Where the stacks of a particle file are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from cryodrgn_ext.errors import InputError


def is_missing(path: Path) -> bool:
    """Whether there is no such file; False for one that merely may not be read, which reading then complains about."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def find_project_directory(star_path: Path, stack_name: str, project_dir: str | Path | None) -> Path:
    """Return the directory to which the image references of a file are relative.

    RELION writes them relative to the project directory, in which it is run. That is ``project_dir`` when given, else
    the working directory, or the nearest directory upward from the STAR file, in which the stack exists; the working
    directory when it exists nowhere.

    Parameters
    ----------
    star_path : Path
    stack_name : str
        The first stack, as written.
    project_dir : path-like, optional

    Raises
    ------
    InputError
        When ``project_dir`` is given and is no directory.
    """
    if project_dir is not None:
        given = Path(project_dir)
        if not os.path.isdir(given):
            raise InputError(f"{given}: is not a directory, but the project directory is expected")
        return given
    working = Path.cwd()
    for directory in _candidates(star_path, working):
        if os.path.isfile(directory / stack_name):  # False for what may not be read
            return directory
    return working


def _candidates(star_path: Path, working: Path) -> Iterator[Path]:
    yield working
    yield from Path(os.path.abspath(star_path)).parents

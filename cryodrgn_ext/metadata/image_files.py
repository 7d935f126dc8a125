"""Where the stacks of a particle file are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from cryodrgn_ext.errors import InputError

#: How many stacks are looked for in each directory that may be the project's.
SAMPLED_STACKS = 8


@dataclass(frozen=True)
class ProjectDirectory:
    """The directory to which image references are relative.

    Attributes
    ----------
    path : Path
    notes : tuple of str
        What a user should know of the choice, one sentence each.
    """

    path: Path
    notes: tuple[str, ...] = ()


def is_missing(path: Path) -> bool:
    """Whether there is no such file; False for one that merely may not be read, which reading then complains about."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def plain_name(name: str) -> str:
    """Return a path without redundant separators and ``.``; ``..`` stays, as links may come before it.

    The system follows a link first and goes upward then, so ``link/../a`` is not ``a``.
    """
    return str(PurePosixPath(name))


def find_project_directory(
    file: Path, stack_names: Sequence[str], project_dir: str | Path | None = None
) -> ProjectDirectory:
    """Find the directory to which the image references of a file are relative.

    RELION and CryoSPARC write them relative to the project directory. That is ``project_dir`` when given, else the
    working directory where the file lies below it (RELION runs there), else the nearest directory upward from the
    file, else the working directory. Of these the first that has the most of the stacks is taken; the working
    directory when none has any.

    Parameters
    ----------
    file : Path
        The file of particles.
    stack_names : sequence of str
        The stacks as written; some of them are looked for.
    project_dir : path-like, optional

    Raises
    ------
    InputError
        When ``project_dir`` is given and is no directory.
    """
    if project_dir is not None:
        given = Path(project_dir)
        if not os.path.isdir(given):
            raise InputError(
                f"{given}: is not a directory, but --project must be the project directory, to which the paths of "
                "images are relative"
            )
        return ProjectDirectory(given)
    working = Path.cwd()
    names = [name for name in stack_names if not name.startswith("/")]
    if not names:
        return ProjectDirectory(working)
    sample = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, SAMPLED_STACKS).astype(int))]
    candidates = list(dict.fromkeys(_candidates(file, working)))
    # False for what may not be read: os.path.isfile asks no further
    present = [[name for name in sample if os.path.isfile(directory / name)] for directory in candidates]
    chosen = int(np.argmax([len(found) for found in present]))
    if not present[chosen]:
        return ProjectDirectory(working)
    return ProjectDirectory(candidates[chosen], _notes(file, candidates, present, chosen, working))


def _candidates(file: Path, working: Path) -> Iterator[Path]:
    upward = list(_upward(file))
    if any(_same(directory, working) for directory in upward):
        yield working
    yield from upward
    yield working


def _upward(file: Path) -> Iterator[Path]:
    """Yield the directories above a file as it is named, then those above the file that a link leads to."""
    if ".." not in file.parts:  # going upward in the text would not follow links
        yield from file.absolute().parents
    yield from Path(os.path.realpath(file)).parents


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _notes(file: Path, candidates: list[Path], present: list[list[str]], chosen: int, working: Path) -> tuple[str, ...]:
    directory = candidates[chosen]
    for other, found in zip(candidates, present, strict=True):
        twice = [name for name in found if name in present[chosen] and not _same(other / name, directory / name)]
        if twice:
            return (
                f"{file}: images are read from {directory}, to which their names are taken to be relative, although "
                f"{other} has {twice[0]} too: give the other directory with --project if that is meant.",
            )
    if _same(directory, working):
        return ()
    return (f"{file}: images are read from {directory}, to which their names are relative.",)

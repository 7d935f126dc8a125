"""selections/ of a result directory: named sets of its particles, each one file with the recipe that made it.

A selection names particles by row and by identifier, so that one made before the particles of a result were others is
refused, and never read as other particles.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.plain_files import load_arrays, readable, write_arrays

FOLDER = "selections"
SUFFIX = ".npz"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class SavedSelection:
    """A named set of particles.

    Attributes
    ----------
    name : str
    rows : ndarray
        (n,) int64, increasing: rows of the particles of the result, from 0.
    recipe : mapping
        Plain values: how the particles were chosen.
    written : str
        When, in local time.
    """

    name: str
    rows: NDArray[np.int64]
    recipe: Mapping[str, Any]
    written: str


def checked_name(name: str, what: str) -> str:
    """Return the name of ``what`` that a user keeps in a result directory.

    Raises
    ------
    InputError
        When it is none that a file of any system may have.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            f"'{name[:80]}' cannot be the name of a {what}: use up to 64 letters, digits, - and _, and begin with a "
            "letter or digit."
        )
    return name


def selection_path(directory: Path, name: str) -> Path:
    """File of a selection of a result directory.

    Raises
    ------
    InputError
        When the name is none that a file of any system may have.
    """
    return directory / FOLDER / f"{checked_name(name, 'selection')}{SUFFIX}"


def selection_names(directory: Path) -> list[str]:
    """Names of the selections that a result directory has, in the order of the alphabet."""
    return sorted(path.stem for path in (directory / FOLDER).glob(f"*{SUFFIX}") if NAME.fullmatch(path.stem))


def write_selection(
    directory: Path,
    name: str,
    particles: ParticleSet,
    rows: NDArray[np.int64],
    recipe: Mapping[str, Any],
    replace: bool = False,
) -> Path:
    """Keep a selection, atomically.

    Parameters
    ----------
    directory : Path
        Of the result.
    name : str
    particles : ParticleSet
        All particles of the result.
    rows : ndarray
        (n,) int64 which of them, increasing.
    recipe : mapping
        Plain values.
    replace : bool
        Whether an earlier one of this name may be replaced.

    Raises
    ------
    InputError
        When the name cannot be used, or is taken.
    """
    path = selection_path(directory, name)
    path.parent.mkdir(exist_ok=True)
    arrays: dict[str, NDArray[Any]] = {
        "row": rows.astype(np.int64),
        "uid": particles.uid[rows],
        "recipe": np.array(json.dumps(recipe)),
        "written": np.array(time.strftime("%Y-%m-%dT%H:%M:%S%z")),
    }
    try:
        write_arrays(path, arrays, new=not replace)
    except FileExistsError:  # also where another program has saved it at the same moment
        raise InputError(
            f"there is a selection '{name}' already: give another name, or say that it be replaced."
        ) from None
    return path


def read_selection_file(path: Path, particles: ParticleSet) -> SavedSelection:
    """Read a selection of these particles.

    Raises
    ------
    InputError
        When the file is missing, damaged, or of other particles.
    """
    with readable(path, "make the selection again"):
        arrays = load_arrays(path, "row", "uid", "recipe", "written")
        rows, recipe = arrays["row"].astype(np.int64), json.loads(str(arrays["recipe"]))
    if rows.shape != arrays["uid"].shape or rows.ndim != 1:
        raise InputError(f"{path}: row has the shape {rows.shape} and uid {arrays['uid'].shape}; (n,) was expected.")
    outside = (rows < 0) | (rows >= particles.n)
    # A row that there is not is of other particles, too.
    other = outside | (particles.uid[np.where(outside, 0, rows)] != arrays["uid"])
    if other.any():
        raise InputError(
            f"{path} was made of other particles than those of {particles.path} ({int(other.sum())} of {len(rows)} "
            "differ): make the selection again."
        )
    return SavedSelection(path.stem, np.unique(rows), recipe, str(arrays["written"]))


def shared_with_selection(path: Path, particles: ParticleSet) -> NDArray[np.int64]:
    """Rows (m,), increasing, of the particles that a selection has too, which may be of another run on them: by uid.

    Raises
    ------
    InputError
        When the file is missing or damaged, or has none of them.
    """
    with readable(path, "make the selection again"):
        uid = load_arrays(path, "uid")["uid"]
        rows = np.flatnonzero(np.isin(particles.uid, uid))
    if len(uid) and not len(rows):
        raise InputError(f"{path} has none of the particles of {particles.path}: it is not of a run on the same ones.")
    return rows.astype(np.int64)


def read_selection_named(name: str, directories: tuple[Path, ...], particles: ParticleSet) -> SavedSelection:
    """Read a selection of the first of these result directories that has it.

    Raises
    ------
    InputError
        When none has one of this name, or it cannot be used.
    """
    for directory in directories:
        path = selection_path(directory, name)
        if path.exists():
            return read_selection_file(path, particles)
    known = sorted({one for directory in directories for one in selection_names(directory)})
    there = f"there are {', '.join(known)}" if known else "it has none yet (cryodrgn-ext explore makes them)"
    raise InputError(f"{directories[0]} has no selection '{name}': {there}.")

"""Paths through latents, by the job ``trajectory``: numbered maps, movies, and a script for ChimeraX.

A path is asked for as plain values, with ``method`` and what belongs to it::

    {"method": "line" | "density", "points": [[...], [...]]}                    through latents of q numbers each
    {"method": "pc", "component": 1}                                            along a principal component
    {"method": "drawn", "x": "pc1", "y": "pc2", "corners": [[0, 0], [1, 1]]}    beneath a line in a picture

With ``"count": 100`` each map is reconstructed from so many particles nearest to it; without, the model makes it.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.trajectories import beneath_line
from cryodrgn_ext.durable_files import atomic_path
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.explorer.opened_result import OpenedResult
from cryodrgn_ext.explorer.recipes import MOST_CORNERS
from cryodrgn_ext.images.map_origin import Kind, generated, reconstructed
from cryodrgn_ext.jobs.trajectory import trajectory
from cryodrgn_ext.options.trajectory import TrajectorySettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.decoded_volumes import volume_name
from cryodrgn_ext.results.record import require_record
from cryodrgn_ext.results.selections import checked_name
from cryodrgn_ext.results.trajectory_files import FILM_NAME, MOVIE_NAME, SCRIPT_NAME
from cryodrgn_ext.workflow.led_path import MOST_FRAMES
from cryodrgn_ext.workflow.nearby_maps import reconstructed_name

FOLDER = "paths"
METHODS = ("line", "density", "pc", "drawn")
#: Files of a path that are handed out beside its maps.
FILES = (MOVIE_NAME, FILM_NAME, SCRIPT_NAME)


def path_folder(opened: OpenedResult, name: str) -> Path:
    """Directory of a path of a result.

    Raises
    ------
    InputError
        When the name is none that a file of any system may have.
    """
    return opened.home.resolve() / FOLDER / checked_name(name, "path")


def lead_path(
    opened: OpenedResult, name: str, wanted: Mapping[str, Any], frames: int, monitor: Monitor, device: str = "auto"
) -> dict[str, Any]:
    """Write the volumes along a path through latents.

    Parameters
    ----------
    opened : OpenedResult
    name : str
        Of the directory in ``paths/`` of the result.
    wanted : mapping
        See the module.
    frames : int
        Number of volumes.
    monitor : Monitor
    device : str
        Where to reconstruct.

    Returns
    -------
    dict
        For the page: kind, titles and names of the maps, the folder, its other files, the commands.

    Raises
    ------
    InputError
        When the path cannot be led as asked, or the name is taken.
    """
    folder, method = path_folder(opened, name), str(wanted.get("method", "line"))
    if not 2 <= frames <= MOST_FRAMES:
        raise InputError(f"a path has 2 to {MOST_FRAMES} volumes, not {frames}.")
    if method not in METHODS:
        raise InputError(f"a path is led by one of {', '.join(METHODS)}, not by '{method}'.")
    with _claimed(folder):
        return _lead(opened, folder, wanted, frames, monitor, device)


def _lead(
    opened: OpenedResult, folder: Path, wanted: Mapping[str, Any], frames: int, monitor: Monitor, device: str
) -> dict[str, Any]:
    """Write the volumes into an empty directory; see :func:`lead_path`."""
    name, method = folder.name, str(wanted.get("method", "line"))
    words = ["cryodrgn-ext", "trajectory", str(opened.given.resolve())]
    how: dict[str, Any] = {"method": "line" if method == "drawn" else method, "frames": frames}
    if method == "pc":
        how["pc"] = int(wanted["component"])
    else:
        anchors = _drawn(opened, wanted, frames) if method == "drawn" else _through(opened, wanted)
        how["anchors"] = folder.with_name(f"{name}.txt")
        with atomic_path(how["anchors"]) as temporary:
            np.savetxt(temporary, anchors, fmt="%.9g")
    if wanted.get("count") is not None:
        how["reconstruct_from"] = int(wanted["count"])
    settings = TrajectorySettings(in_parts=opened.given, o=folder, project=opened.project, device=device, **how)
    with opened.lock:
        trajectory(settings, monitor)
    words += [word for option, value in {**how, "o": folder}.items() for word in (f"--{option}", str(value))]
    if opened.project is not None:
        words += ["--project", str(opened.project.resolve())]
    titles = _titles(folder, name, frames)
    maps = [{"key": f"{FOLDER}/{name}/{number}", "title": title} for number, title in enumerate(titles)]
    files = [f"{FOLDER}/{name}/{file}" for file in FILES if (folder / file).is_file()]
    return {"kind": path_kind(folder), "folder": str(folder), "files": files, "maps": maps,
            "commands": [shlex.join(words)]}  # fmt: skip


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Make the directory of a path, which nobody else has then; what could not be made is removed with it.

    Raises
    ------
    InputError
        When there is one of this name.
    """
    folder.parent.mkdir(exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        raise InputError(f"there is a path '{folder.name}' already, in {folder}: give another name.") from None
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_name(f"{folder.name}.txt").unlink(missing_ok=True)
        raise


def path_kind(folder: Path) -> Kind:
    """What the maps of a path are."""
    return Kind.RECONSTRUCTED if (folder / reconstructed_name(0)).is_file() else Kind.GENERATED


def _titles(folder: Path, name: str, frames: int) -> list[str]:
    """One line for each map of a path, which says what it is."""
    places = [f"path {name}, {number + 1} of {frames}" for number in range(frames)]
    if path_kind(folder) is Kind.GENERATED:
        return [generated(f": {place}").title for place in places]
    counts = require_record(folder, "trajectory")["results"]["particles"]
    return [reconstructed(n, place).title for n, place in zip(counts, places, strict=True)]


def _through(opened: OpenedResult, wanted: Mapping[str, Any]) -> NDArray[np.float64]:
    """(P, q) latents that were clicked."""
    anchors = np.asarray(wanted["points"], np.float64)
    if anchors.ndim != 2 or anchors.shape[1] != opened.z.shape[1] or len(anchors) < 2:
        raise InputError(f"a path leads through at least two points of {opened.z.shape[1]} numbers each.")
    return anchors


def _drawn(opened: OpenedResult, wanted: Mapping[str, Any], frames: int) -> NDArray[np.float64]:
    """(P, q) latents beneath a line that was drawn."""
    line = np.asarray(wanted["corners"], np.float64)
    if line.ndim != 2 or line.shape[1] != 2 or not 2 <= len(line) <= MOST_CORNERS or not np.isfinite(line).all():
        raise InputError(f"a line of 2 to {MOST_CORNERS} points is expected: draw it in the plot.")
    plane = np.column_stack([opened.values(str(wanted["x"])), opened.values(str(wanted["y"]))])
    return beneath_line(plane, opened.z, line, frames)


def path_map(opened: OpenedResult, key: str) -> Path | None:
    """A map of a path, or another of its files, by its key; None for other keys.

    Raises
    ------
    InputError
        When there is no such map.
    """
    parts = key.split("/")
    if len(parts) != 3 or parts[0] != FOLDER:
        return None
    folder = path_folder(opened, parts[1])
    named = reconstructed_name if path_kind(folder) is Kind.RECONSTRUCTED else volume_name
    path = folder / (named(int(parts[2])) if parts[2].isdecimal() else parts[2] if parts[2] in FILES else "")
    if not path.is_file():
        raise InputError(f"there is no map {key}.")
    return path

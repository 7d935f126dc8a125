"""Paths through clicked points: numbered maps and a script for ChimeraX, by the job ``trajectory``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cryodrgn_ext.durable_files import atomic_path
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.explorer.maps import GENERATED
from cryodrgn_ext.explorer.opened_result import OpenedResult
from cryodrgn_ext.jobs.trajectory import MOST_FRAMES, trajectory
from cryodrgn_ext.options.trajectory import TrajectorySettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.decoded_volumes import volume_name
from cryodrgn_ext.results.selections import NAME
from cryodrgn_ext.results.trajectory_files import MOVIE_NAME, SCRIPT_NAME

FOLDER = "paths"
METHODS = ("line", "density")


def path_folder(opened: OpenedResult, name: str) -> Path:
    """Directory of a path of a result.

    Raises
    ------
    InputError
        When the name is none that a file of any system may have.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"'{name}' cannot be the name of a path: use up to 64 letters, digits, - and _.")
    return opened.home.resolve() / FOLDER / name


def lead_path(
    opened: OpenedResult, name: str, points: Sequence[Sequence[float]], frames: int, method: str, monitor: Monitor
) -> dict[str, Any]:
    """Write the volumes along a path through latents.

    Parameters
    ----------
    opened : OpenedResult
    name : str
        Of the directory in ``paths/`` of the result.
    points : sequence
        (P, q) latents that the path leads through, at least two.
    frames : int
        Number of volumes.
    method : str
        One of ``METHODS`` of the job ``trajectory``.
    monitor : Monitor

    Returns
    -------
    dict
        For the page: titles and names of the maps, the folder, the commands.

    Raises
    ------
    InputError
        When the points or the number cannot be used, or the name is taken.
    """
    folder = path_folder(opened, name)
    anchors = np.asarray(points, np.float64)
    if anchors.ndim != 2 or anchors.shape[1] != opened.z.shape[1] or len(anchors) < 2:
        raise InputError(f"a path leads through at least two points of {opened.z.shape[1]} numbers each.")
    if not 2 <= frames <= MOST_FRAMES:
        raise InputError(f"a path has 2 to {MOST_FRAMES} volumes, not {frames}.")
    if method not in METHODS:
        raise InputError(f"a path is led by one of {', '.join(METHODS)}, not by '{method}'.")
    if folder.exists():
        raise InputError(f"there is a path '{name}' already, in {folder}: give another name.")
    folder.parent.mkdir(exist_ok=True)
    file = folder.with_name(f"{name}.txt")
    with atomic_path(file) as temporary:
        np.savetxt(temporary, anchors, fmt="%.9g")
    settings = TrajectorySettings(
        in_parts=opened.given, o=folder, project=opened.project, method=method, anchors=file, frames=frames
    )
    with opened.lock:
        trajectory(settings, monitor)
    words = ["cryodrgn-ext", "trajectory", str(opened.given.resolve()), "--method", method, "--anchors", str(file),
             "--frames", str(frames), "--o", str(folder)]  # fmt: skip
    if opened.project is not None:
        words += ["--project", str(opened.project.resolve())]
    maps = [
        {
            "key": f"{FOLDER}/{name}/{number}",
            "title": f"{GENERATED} by the model: path {name}, {number + 1} of {frames}",
        }
        for number in range(frames)
    ]
    written = {"folder": str(folder), "script": str(folder / SCRIPT_NAME), "movie": str(folder / MOVIE_NAME)}
    return {**written, "maps": maps, "commands": [shlex.join(words)]}


def path_map(opened: OpenedResult, key: str) -> Path | None:
    """File of a map of a path, by its key; None for other keys.

    Raises
    ------
    InputError
        When there is no such map.
    """
    parts = key.split("/")
    if len(parts) != 3 or parts[0] != FOLDER:
        return None
    folder = path_folder(opened, parts[1])
    path = folder / volume_name(int(parts[2])) if parts[2].isdecimal() else folder / ""
    if not path.is_file():
        raise InputError(f"there is no map {key}.")
    return path

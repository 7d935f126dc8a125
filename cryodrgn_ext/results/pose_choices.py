"""Choices of an abinit job about coordinates and origins, as JSON files of its checkpoint directory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cryodrgn_ext.plain_files import load_json, readable, write_json
from cryodrgn_ext.pose.chosen_transform import ChosenTransform
from cryodrgn_ext.pose.coordinate_transform import CoordinateTransform
from cryodrgn_ext.pose.origins import JudgedOrigins

REMEDY = "delete it and continue the job"


def write_transform(path: Path, chosen: ChosenTransform) -> None:
    """Write a chosen transform, atomically."""
    transform = chosen.transform
    plain = {
        "change": {
            "rotation": transform.rotation.tolist(), "shift_px": transform.shift_px.tolist(),
            "mirrored": transform.mirrored,
        },
        "correlation": chosen.correlation,
        "other_hand": chosen.other_hand,
    }  # fmt: skip
    write_json(path, plain)


def read_transform(path: Path) -> ChosenTransform:
    """Read what :func:`write_transform` wrote.

    Raises
    ------
    InputError
        When it is missing or damaged.
    """
    with readable(path, REMEDY):
        plain = load_json(path)
        given = plain["change"]
        rotation, shift = np.array(given["rotation"], np.float64), np.array(given["shift_px"], np.float64)
        transform = CoordinateTransform(rotation, shift, bool(given["mirrored"]))
        return ChosenTransform(transform, plain["correlation"], plain["other_hand"])


def write_judged_origins(path: Path, judged: JudgedOrigins) -> None:
    """Write whether origins are used and why, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {"used": judged.used, "clearness": judged.snr, "without": judged.snr_without}
    write_json(path, plain)


def read_judged_origins(path: Path) -> JudgedOrigins:
    """Read what :func:`write_judged_origins` wrote.

    Raises
    ------
    InputError
        When it is missing or damaged.
    """
    with readable(path, REMEDY):
        plain = load_json(path)
        return JudgedOrigins(bool(plain["used"]), float(plain["clearness"]), float(plain["without"]))

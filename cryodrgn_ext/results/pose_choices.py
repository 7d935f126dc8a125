"""Choices of an abinit job about coordinates and origins, as JSON files of its checkpoint directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cryodrgn_ext.durable_files import atomic_write_text
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.pose.chosen_transform import ChosenTransform
from cryodrgn_ext.pose.coordinate_transform import CoordinateTransform
from cryodrgn_ext.pose.origins import JudgedOrigins

T = TypeVar("T")


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
    atomic_write_text(path, json.dumps(plain))


def read_transform(path: Path) -> ChosenTransform:
    """Read what :func:`write_transform` wrote.

    Raises
    ------
    InputError
        When it is missing or damaged.
    """

    def parsed(plain: dict[str, Any]) -> ChosenTransform:
        given = plain["change"]
        rotation, shift = np.array(given["rotation"], np.float64), np.array(given["shift_px"], np.float64)
        transform = CoordinateTransform(rotation, shift, bool(given["mirrored"]))
        return ChosenTransform(transform, plain["correlation"], plain["other_hand"])

    return _read(path, parsed)


def write_judged_origins(path: Path, judged: JudgedOrigins) -> None:
    """Write whether origins are used and why, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {"used": judged.used, "clearness": judged.snr, "without": judged.snr_without}
    atomic_write_text(path, json.dumps(plain))


def read_judged_origins(path: Path) -> JudgedOrigins:
    """Read what :func:`write_judged_origins` wrote.

    Raises
    ------
    InputError
        When it is missing or damaged.
    """
    return _read(path, lambda one: JudgedOrigins(bool(one["used"]), float(one["clearness"]), float(one["without"])))


def _read(path: Path, parse: Callable[[dict[str, Any]], T]) -> T:
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}): delete it and continue the job.") from None

"""Files of what speaks against weak claims: trainings on images of one structure, and a model that gains nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryodrgn_ext.plain_files import load_json, readable, write_json
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.validation.null_finding import NullFinding, without_gain
from cryodrgn_ext.validation.verdict import Conclusion

GAIN_NAME = "gain.json"


def found_path(folder: Path) -> Path:
    """Where a run in ``folder`` leaves what it found."""
    return folder.with_suffix(".json")


def read_finding(folders: Sequence[Path]) -> NullFinding:
    """Sum up finished runs.

    Raises
    ------
    InputError
        When a file is damaged.
    """
    found = []
    for folder in folders:
        path = found_path(folder)
        with readable(path, "delete it and continue the job"):
            found.append(load_json(path))
    runs = [[Conclusion(**one) for one in run["states"]] for run in found]
    return NullFinding.of(runs, max(run["turn_deg"] for run in found), max(run["shift_A"] for run in found))


def weak_null_folder(layout: Layout) -> Path:
    """Where a training repeats itself on images of one structure when its claims are weak."""
    return layout.checkpoint / "weak_null"


def read_weak_null(layout: Layout) -> NullFinding | None:
    """Read what was found there; None where claims were not weak, or there were none."""
    folder = weak_null_folder(layout)
    return read_finding([folder]) if found_path(folder).exists() else None


def write_gain(layout: Layout, wins: bool) -> None:
    """Keep whether the model explains images that it was not learned from better than the average structure does."""
    write_json(layout.checkpoint / GAIN_NAME, {"wins": wins})


def against_gain(layout: Layout, conclusions: Sequence[Conclusion]) -> list[Conclusion]:
    """Conclusions held against what :func:`write_gain` kept; as they are where nothing was."""
    path = layout.checkpoint / GAIN_NAME
    if not path.exists():
        return list(conclusions)
    with readable(path, "delete it and continue the job"):
        wins = bool(load_json(path)["wins"])
    return list(conclusions) if wins else without_gain(conclusions)

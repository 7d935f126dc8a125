"""Files in which trainings on images of one structure leave what they found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryodrgn_ext.plain_files import load_json, readable
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.validation.null_finding import NullFinding
from cryodrgn_ext.validation.verdict import Conclusion


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

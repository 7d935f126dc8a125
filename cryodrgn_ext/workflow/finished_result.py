"""A result directory whose job is finished, as job.yaml describes it: what a report is written from again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryodrgn_ext.report.run_facts import RunFacts
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.settings import Settings, describe, from_plain


@dataclass(frozen=True)
class FinishedResult:
    """The record of a finished job.

    Attributes
    ----------
    layout : Layout
        Of the result directory.
    given : Settings
        Of the run, as its user gave them.
    settings : Settings
        The same with paths by which files are found from here.
    record : mapping
        job.yaml.
    notes : sequence of str
        What the job said on top of its report.
    seconds : mapping
        Time of each of its stages.
    """

    layout: Layout
    given: Settings
    settings: Settings
    record: Mapping[str, Any]
    notes: Sequence[str]
    seconds: Mapping[str, float]

    @property
    def facts(self) -> RunFacts:
        """The run as its report shows it."""
        return RunFacts(self.layout, self.record["job"], self.given, self.notes, self.seconds)

    def learned(self, given: Path) -> Path:
        """Return the result that the job went on from: as it was given, which may be a part of it, if that is there."""
        return given if given.exists() else Path(self.record["inputs"]["result"])


def read_finished(directory: Path, record: Mapping[str, Any], settings_class: type[Settings]) -> FinishedResult:
    """Read the settings and notes in the record of a finished job.

    Files that the settings name are looked for where the job ran, before they are looked for from here: the working
    directory may be another project with files of the same names.
    """
    settings = from_plain(settings_class, record["settings"])
    home = Path(record.get("project_directory", ""))

    def found(path: Path) -> Path:
        return home / path if (home / path).exists() else path

    moved: dict[str, Any] = {}
    for one in describe(settings_class):
        value = getattr(settings, one.name)
        if isinstance(value, Path):
            moved[one.name] = found(value)
        elif isinstance(value, tuple) and one.kind == "path":
            moved[one.name] = tuple(found(path) for path in value)
    results = record["results"]
    return FinishedResult(
        Layout(directory), settings, replace(settings, **moved), record, list(results.get("notes", [])),
        dict(results.get("seconds", {})),
    )  # fmt: skip

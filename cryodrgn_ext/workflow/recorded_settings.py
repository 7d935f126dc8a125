"""Settings of a job that goes on in its directory: what is not given keeps the value with which the job was begun.

Defaults change from version to version. Without this, a Continue by a newer version would go on with other settings, or
be refused because of an option that nobody gave.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryodrgn_ext.options.result_settings import ResultSettings
from cryodrgn_ext.setting_field import REQUIRED
from cryodrgn_ext.settings import Settings, canonical_name, describe, from_values, parse_values, text_of, typed_values


@dataclass(frozen=True)
class CompletedSettings:
    """Settings of a run, and what the user must know of those that were not given.

    Attributes
    ----------
    settings : Settings
    sentences : tuple of str
        For the log: which options keep recorded values other than their defaults, and which there were not when the job
        was begun.
    """

    settings: Settings
    sentences: tuple[str, ...] = ()


def settings_from_words(cls: type[Settings], job: str, given: Mapping[str, str | Sequence[str]]) -> CompletedSettings:
    """Build a job's settings from the words of an entry point and from what its directory records.

    Parameters
    ----------
    cls : Settings class
    job : str
        Name of the job.
    given : mapping
        As of :func:`cryodrgn_ext.settings.from_mapping`. An option without a word, as RELION passes an empty field, is
        not given.

    Raises
    ------
    InputError
        As of :func:`cryodrgn_ext.settings.from_mapping`, or when job.yaml cannot be read.
    """
    values = parse_values(cls, given)
    switches = {field.name for field in describe(cls) if field.kind == "bool"}
    empty = {canonical_name(name) for name, words in given.items() if not "".join(words).strip()}
    return completed_settings(cls, job, values, empty - switches)


def completed_settings(
    cls: type[Settings], job: str, given: Mapping[str, Any], left_open: Collection[str] = ()
) -> CompletedSettings:
    """Build a job's settings from given values and from what its directory records; what is given comes first.

    Parameters
    ----------
    cls : Settings class
    job : str
        Name of the job.
    given : mapping
        Values of their types.
    left_open : collection of str
        Names of those among them that the user has left open: a recorded value comes before theirs.

    Raises
    ------
    InputError
        When a required setting is missing, a value is out of bounds, or job.yaml cannot be read.
    """
    from cryodrgn_ext.results.record import read_record  # with yaml, which help texts need not

    directory = given.get("o", next((field.default for field in describe(cls) if field.name == "o"), REQUIRED))
    record = read_record(directory) if issubclass(cls, ResultSettings) and isinstance(directory, Path) else None
    if record is None or record["job"] != job:  # the job itself refuses the results of another
        return CompletedSettings(from_values(cls, given))
    told = given.keys() - set(left_open)
    defaults = {field.name: field.default for field in describe(cls)}
    decided = {name for name in told if given[name] != defaults[name]}
    instead = {name for group in cls.ALTERNATIVES if decided.intersection(group) for name in group}
    project = Path(str(record.get("project_directory", "")))
    recorded = typed_values(cls, record["settings"])
    kept = {name: _found(value, project) for name, value in recorded.items() if name not in told | instead}
    settings = from_values(cls, {**given, **kept})
    unknown = [field.name for field in describe(cls) if field.name not in {*told, *record["settings"]}]
    return CompletedSettings(settings, _sentences(settings, directory, kept, unknown))


def _found(value: Any, project: Path) -> Any:
    """Name files of a job that was begun in another working directory so that they are found from this one."""
    if isinstance(value, tuple):
        return tuple(_found(one, project) for one in value)
    if isinstance(value, Path) and not value.exists() and (project / value).exists():
        return project / value
    return value


def _sentences(settings: Settings, directory: Path, kept: Collection[str], unknown: Collection[str]) -> tuple[str, ...]:
    """Say what was not given and is not simply today's default, or was not there when the job was begun."""
    fields = {field.name: field for field in describe(type(settings))}
    words = {name: f"--{name} {text_of(field, getattr(settings, name)) or 'none'}" for name, field in fields.items()}
    others = [words[name] for name in kept if getattr(settings, name) != fields[name].default]
    sentences = []
    if others:
        sentences.append(f"Not given, and as when {directory} was begun: {', '.join(others)}")
    if unknown:
        new = ", ".join(words[name] for name in unknown)
        sentences.append(f"There was no such option when {directory} was begun, and the default is taken: {new}")
    return tuple(sentences)

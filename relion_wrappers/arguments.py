"""The command line that RELION builds for an External job, read against a job's declared settings.

RELION passes ``--o DIR/ [--in_parts F ...] --label value ... --j N other arguments`` through the shell without
quotes: an empty value leaves a bare label, a value with blanks becomes several arguments, wildcards are expanded,
and ``--pipeline_control DIR/`` is added to some commands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.settings import SettingField, Settings, canonical_name, describe, from_mapping, unknown_option

S = TypeVar("S", bound=Settings)
NUMBER = re.compile(r"-\.?\d")
IGNORED = frozenset({"pipeline_control"})
# Input fields of RELION's External tab that a job may not use.
INPUT_FIELDS = {
    "in_movies": "Input movies",
    "in_mics": "Input micrographs",
    "in_parts": "Input particles",
    "in_coords": "Input coordinates",
    "in_3dref": "Input 3D reference",
    "in_mask": "Input 3D mask",
}


def parse_arguments(cls: type[S], arguments: Sequence[str], presets: Mapping[str, str] | None = None) -> S:
    """Read a RELION command line.

    Parameters
    ----------
    cls : Settings class
        The job's settings.
    arguments : sequence of str
        Without the program's name.
    presets : mapping, optional
        Option values that hold unless given.

    Raises
    ------
    InputError
        For anything that is not understood: by name, with a suggestion.
    """
    fields = {field.name: field for field in describe(cls)}
    given: dict[str, list[str]] = {}
    for option, words in _split(arguments):
        name = canonical_name(option)
        if name in IGNORED:
            continue
        if name not in fields:
            if name in INPUT_FIELDS:
                if not words:
                    continue
                raise InputError(
                    f"--{name} is not used by this job: leave '{INPUT_FIELDS[name]}' on the Input tab empty."
                )
            raise unknown_option(cls, option)
        _check_not_split(fields[name], words)
        if name in given and given[name] != words:
            raise InputError(
                f"--{name} is given twice, as '{' '.join(given[name])}' and as '{' '.join(words)}': keep one of them."
            )
        given[name] = words
    return from_mapping(cls, {**(presets or {}), **given})


def _split(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Group the arguments into options and the words that follow each."""
    groups: list[tuple[str, list[str]]] = []
    for argument in arguments:
        is_option = argument.startswith("-") and argument != "-" and NUMBER.match(argument) is None
        if is_option:
            option, equals, value = argument.partition("=")
            if not option.startswith("--"):
                raise InputError(f"'{argument}' is not understood: options begin with two dashes.")
            groups.append((option, [value] if equals else []))
        elif groups:
            groups[-1][1].append(argument)
        else:
            raise InputError(f"'{argument}' is not understood: an option such as --in_parts must come before it.")
    # An empty value ('') means the same as none at all.
    return [(option, [word for word in words if word != ""]) for option, words in groups]


def _check_not_split(field: SettingField, words: Sequence[str]) -> None:
    """Explain a value that the shell cut into pieces or expanded."""
    if field.many or len(words) <= 1:
        return
    raise InputError(
        f"--{field.name} takes one value, but got {len(words)}: '{' '.join(words)}'; RELION hands values to the shell "
        "without quotes, so they must not contain blanks, and wildcards (*, ?) are expanded."
    )


def usage(cls: type[Settings], program: str, summary: str) -> str:
    """Help text of a wrapper, one line per option."""
    lines = [f"{program}: {summary}", "", "Runs as an External job of RELION, or by hand with the same options:", ""]
    width = max(len(field.option) for field in describe(cls)) + 2
    for field in describe(cls):
        default = "" if field.required or field.default in (None, ()) else f" [{field.default}]"
        lines.append(f"  {field.option:<{width}}{field.describe()}{default}")
    return "\n".join(lines) + "\n"

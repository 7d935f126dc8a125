"""The command line that RELION builds for an External job, read against a job's declared settings.

RELION passes ``--o DIR/ [--in_parts F ...] --label value ... --j N other arguments`` through the shell without
quotes: an empty value leaves a bare label, a value with blanks becomes several arguments, wildcards are expanded,
and ``--pipeline_control DIR/`` is added to some commands.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.setting_field import SettingField
from cryodrgn_ext.settings import Settings, describe, unknown_option
from cryodrgn_ext.tokens import refuse_others, split_options

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


def given_words(cls: type[Settings], arguments: Sequence[str]) -> dict[str, list[str]]:
    """Read a RELION command line: the words of each option, none where RELION's field is empty.

    Parameters
    ----------
    cls : Settings class
        The job's settings.
    arguments : sequence of str
        Without the program's name.

    Raises
    ------
    InputError
        For anything that is not understood: by name, with a suggestion.
    """
    fields = {field.name: field for field in describe(cls)}
    given: dict[str, list[str]] = {}
    for name, words in _options(arguments):
        if name in IGNORED:
            continue
        if name not in fields:
            if name not in INPUT_FIELDS:
                raise unknown_option(cls, name)
            if words:
                raise InputError(
                    f"--{name} is not used by this job: leave '{INPUT_FIELDS[name]}' on the Input tab empty."
                )
            continue
        _check_not_split(fields[name], words)
        if name in given and given[name] != words:
            raise InputError(
                f"--{name} is given twice, as '{' '.join(given[name])}' and as '{' '.join(words)}': keep one of them."
            )
        given[name] = words
    return given


def template_values(arguments: Sequence[str]) -> dict[str, str]:
    """Read options of a job as ``--option words`` for a template: the words of each with commas between."""
    return {name: ",".join(words) for name, words in _options(arguments)}


def _options(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Group the arguments: every option takes all words up to the next, an empty one ('') being the same as none."""
    options, others = split_options(arguments)
    for option in options:
        if not option.option.startswith("--"):
            raise InputError(f"'{option.option}' is not understood: options begin with two dashes.")
    refuse_others(others)
    return [(option.name, [word for word in option.words if word != ""]) for option in options]


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

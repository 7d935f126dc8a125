"""Settings are declared once: frozen dataclasses whose fields carry default, unit, help, bounds and choices.

From one class come the click options, the RELION argument parser, the job.star template, job.yaml and the table
in the documentation. A job declares::

    @dataclass(frozen=True)
    class TrainSettings(Settings):
        epochs: int = setting(20, help="Passes over the data", low=1, high=10_000)

Option names equal field names; ``-`` and ``_`` are the same in them. The types that a field may have are ``int``,
``float``, ``bool``, ``str``, ``Path``, each optionally ``| None``, and ``tuple[int, ...]``, ``tuple[float, ...]``,
``tuple[str, ...]``.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import inspect
import json
import math
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cryodrgn_ext.errors import InputError

S = TypeVar("S", bound="Settings")
TRUE_WORDS = frozenset({"true", "yes", "on", "1", "y", "t"})
FALSE_WORDS = frozenset({"false", "no", "off", "0", "n", "f"})
NONE_WORDS = frozenset({"", "none"})
_METADATA_KEY = "cryodrgn_ext_setting"
_SCALARS: dict[type, str] = {int: "int", float: "float", bool: "bool", str: "str", Path: "path"}


class _Required:
    """The default of a setting that has none."""

    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()


@dataclass(frozen=True)
class SettingField:
    """One declared setting, as the entry points see it.

    Attributes
    ----------
    name : str
        Field and option name (``in_parts`` becomes ``--in_parts``).
    kind : str
        ``int``, ``float``, ``bool``, ``str`` or ``path``: the type of one value.
    many : bool
        Whether the setting takes any number of values (a tuple).
    optional : bool
        Whether ``None`` (the words "none" or nothing) is a value.
    default : object
        The default, or ``REQUIRED``.
    help, unit : str
        One sentence, and the unit of the value ("" for none).
    low, high : float or None
        Inclusive bounds of each value.
    choices : tuple of str
        The admitted words; empty for any.
    count : int or None
        With ``many``: how many values there must be (or none at all).
    """

    name: str
    kind: str
    many: bool
    optional: bool
    default: Any
    help: str
    unit: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    count: int | None
    connects: str

    @property
    def option(self) -> str:
        """The option as it is written on a command line, ``--in_parts``."""
        return "--" + self.name

    @property
    def required(self) -> bool:
        """Whether the user must give a value."""
        return self.default is REQUIRED

    def describe(self) -> str:
        """Help, unit, bounds and choices in one line."""
        text = self.help.rstrip(".")
        extra = []
        if self.unit:
            extra.append(self.unit)
        if self.choices:
            extra.append(", ".join(self.choices))
        if self.low is not None and self.high is not None:
            extra.append(f"{_number(self.low)} to {_number(self.high)}")
        elif self.low is not None:
            extra.append(f"at least {_number(self.low)}")
        elif self.high is not None:
            extra.append(f"at most {_number(self.high)}")
        return f"{text} ({'; '.join(extra)})." if extra else text + "."

    def parse(self, words: Sequence[str]) -> Any:
        """Turn the words given for this setting into its value, unchecked for bounds.

        Parameters
        ----------
        words : sequence of str
            Nothing (a bare option: the default, or True for a bool), or the values. Lists may be separated by
            commas or blanks.

        Raises
        ------
        InputError
            When a word is not of the setting's type, or there are too many.
        """
        if self.many:
            parts = [part for word in words for part in word.replace(",", " ").split()]
            if not parts or (len(parts) == 1 and parts[0].lower() in NONE_WORDS):
                return () if self.required else self.default
            return tuple(self._parse_one(part) for part in parts)
        if not words:
            if self.kind == "bool":
                return True
            if self.required:
                raise InputError(f"{self.option} needs a value: {self.describe()}")
            return self.default
        if len(words) > 1:
            raise InputError(
                f"{self.option} takes one value, but '{' '.join(words)}' are {len(words)}; a value must not contain "
                "blanks or wildcards, because RELION hands values to the shell without quotes."
            )
        if words[0].strip() == "" and not self.required:
            return self.default
        if self.optional and words[0].strip().lower() in NONE_WORDS:
            return None
        return self._parse_one(words[0])

    def _parse_one(self, word: str) -> Any:
        text = word.strip()
        if self.kind == "str":
            return text
        if self.kind == "path":
            if not text:
                raise InputError(f"{self.option} needs the name of a file or folder, but is empty.")
            return Path(text)
        if self.kind == "bool":
            if text.lower() in TRUE_WORDS:
                return True
            if text.lower() in FALSE_WORDS:
                return False
            raise InputError(f"{self.option} must be yes or no, not '{word}'.")
        try:
            if self.kind == "int":
                return int(text)
            return float(text)
        except ValueError:
            # "20.0" is how some interfaces write whole numbers.
            if self.kind == "int":
                try:
                    number = float(text)
                except ValueError:
                    number = math.nan
                if number.is_integer():
                    return int(number)
            noun = "a whole number" if self.kind == "int" else "a number"
            raise InputError(f"{self.option} must be {noun}, not '{word}'.") from None

    def check(self, value: Any) -> None:
        """Raise InputError unless ``value`` has the declared type and lies within bounds and choices."""
        if value is None:
            if self.optional:
                return
            raise InputError(f"{self.option} needs a value: {self.describe()}")
        if self.many:
            if not isinstance(value, tuple):
                raise InputError(f"{self.option} must be a list of values, not {value!r}.")
            if self.count is not None and value and len(value) != self.count:
                raise InputError(f"{self.option} takes {self.count} values, but {len(value)} were given.")
            for one in value:
                self._check_one(one)
        else:
            self._check_one(value)

    def _check_one(self, value: Any) -> None:
        types_of_kind: dict[str, tuple[type, ...]] = {
            "int": (int,), "float": (int, float), "bool": (bool,), "str": (str,), "path": (Path,),
        }  # fmt: skip
        if type(value) not in types_of_kind[self.kind] and not (self.kind == "path" and isinstance(value, Path)):
            raise InputError(f"{self.option} must be of type {self.kind}, not {value!r}.")
        if self.kind in ("int", "float"):
            if not math.isfinite(value):
                raise InputError(f"{self.option} must be a finite number, not {value}.")
            unit = f" {self.unit}" if self.unit else ""
            if self.low is not None and value < self.low:
                raise InputError(f"{self.option} must be at least {_number(self.low)}{unit}, not {value}.")
            if self.high is not None and value > self.high:
                raise InputError(f"{self.option} must be at most {_number(self.high)}{unit}, not {value}.")
        if self.choices and value not in self.choices:
            close = difflib.get_close_matches(str(value), self.choices, n=1)
            hint = f" (did you mean '{close[0]}'?)" if close else ""
            raise InputError(f"{self.option} must be one of {', '.join(self.choices)}, not '{value}'{hint}.")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:g}"


def setting(
    default: Any = REQUIRED,
    *,
    help: str,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
    count: int | None = None,
    connects: str = "",
) -> Any:
    """Declare a field of a :class:`Settings` class.

    Parameters
    ----------
    default : object, optional
        The default; without it the setting is required.
    help : str
        One sentence for the user.
    unit : str, optional
        Unit of the value as the user gives it ("Å", "px", "degrees").
    low, high : float, optional
        Inclusive bounds.
    choices : sequence of str, optional
        Admitted words.
    count : int, optional
        Exact number of values of a tuple setting.
    connects : str, optional
        What a suite connects to this setting: "aligned particles", "particles" (without alignments), or "result" (what
        an earlier job of ours has learned).
    """
    metadata = {_METADATA_KEY: {"help": help, "unit": unit, "low": low, "high": high,
                                "choices": tuple(choices), "count": count, "connects": connects}}  # fmt: skip
    if default is REQUIRED:
        return dataclasses.field(metadata=metadata, kw_only=True)
    return dataclasses.field(default=default, metadata=metadata, kw_only=True)


def _resolve_type(annotation: Any) -> tuple[str, bool, bool]:
    """(kind, many, optional) of a field's annotation."""
    optional = False
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = [a for a in typing.get_args(annotation) if a is not type(None)]
        optional = len(members) < len(typing.get_args(annotation))
        if len(members) != 1:
            raise TypeError(f"a setting cannot be of type {annotation}")
        annotation = members[0]
    many = typing.get_origin(annotation) is tuple
    if many:
        annotation = typing.get_args(annotation)[0]
    if annotation not in _SCALARS:
        raise TypeError(f"a setting cannot be of type {annotation}")
    return _SCALARS[annotation], many, optional


def _own_names(cls: type) -> Collection[str]:
    return inspect.get_annotations(cls)


@dataclass(frozen=True)
class Settings:
    """Base of every job's settings; construction checks types, bounds and choices.

    Raises
    ------
    InputError
        From the constructor, naming the option.
    """

    def __post_init__(self) -> None:
        """Check every field against its declaration."""
        for field in describe(type(self)):
            field.check(getattr(self, field.name))

    def to_mapping(self) -> dict[str, Any]:
        """Plain values (paths as text, tuples as lists) in the order of declaration, for job.yaml."""
        plain: dict[str, Any] = {}
        for field in describe(type(self)):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                plain[field.name] = [str(v) if isinstance(v, Path) else v for v in value]
            else:
                plain[field.name] = str(value) if isinstance(value, Path) else value
        return plain


def describe(cls: type[Settings]) -> tuple[SettingField, ...]:
    """Return the declared settings of a class: its own in order of declaration, then those that it inherits."""
    cached = cls.__dict__.get("_described")
    if cached is not None:
        return typing.cast("tuple[SettingField, ...]", cached)
    hints = typing.get_type_hints(cls)
    fields = []
    rank: dict[str, tuple[int, int]] = {}
    for depth, base in reversed(list(enumerate(cls.__mro__))):
        rank |= {name: (depth, place) for place, name in enumerate(_own_names(base))}
    for field in sorted(dataclasses.fields(cls), key=lambda field: rank[field.name]):
        if _METADATA_KEY not in field.metadata:
            raise TypeError(f"{cls.__name__}.{field.name} must be declared with setting(...)")
        kind, many, optional = _resolve_type(hints[field.name])
        default = REQUIRED if field.default is dataclasses.MISSING else field.default
        fields.append(SettingField(name=field.name, kind=kind, many=many, optional=optional, default=default,
                                   **field.metadata[_METADATA_KEY]))  # fmt: skip
    cls._described = tuple(fields)  # type: ignore[attr-defined]
    return tuple(fields)


def canonical_name(option: str) -> str:
    """Field name of an option: ``--in-parts`` and ``in_parts`` are the same."""
    return option.lstrip("-").replace("-", "_")


def unknown_option(
    cls: type[Settings], option: str, also: Collection[str] = (), without: Collection[str] = ()
) -> InputError:
    """Return the error for an option that ``cls`` does not have, with the nearest name that it has.

    Parameters
    ----------
    cls : Settings class
    option : str
    also, without : collection of str
        Further names that there are, and settings that are not offered.
    """
    names = [field.name for field in describe(cls) if field.name not in without] + list(also)
    close = difflib.get_close_matches(canonical_name(option), names, n=1, cutoff=0.6)
    hint = f"did you mean --{close[0]}?" if close else f"the options are {', '.join('--' + n for n in names)}."
    return InputError(f"unknown option --{option.lstrip('-')}: {hint}")


def from_mapping(cls: type[S], given: Mapping[str, str | Sequence[str]]) -> S:
    """Build settings from text, as an entry point or a file gives it.

    Parameters
    ----------
    cls : Settings class
    given : mapping
        Option name to its word, or to its words (none for a bare option).

    Returns
    -------
    Settings
        Checked.

    Raises
    ------
    InputError
        Unknown name (with a suggestion), missing value, wrong type, out of bounds.
    """
    return from_values(cls, parse_values(cls, given))


def parse_values(cls: type[Settings], given: Mapping[str, str | Sequence[str]]) -> dict[str, Any]:
    """Parse text into values of their types, unchecked for bounds; see :func:`from_mapping`.

    Raises
    ------
    InputError
        Unknown name (with a suggestion), wrong type.
    """
    fields = {field.name: field for field in describe(cls)}
    values: dict[str, Any] = {}
    for option, words in given.items():
        name = canonical_name(option)
        if name not in fields:
            raise unknown_option(cls, option)
        values[name] = fields[name].parse([words] if isinstance(words, str) else list(words))
    return values


def check_values(cls: type[Settings], values: Mapping[str, Any]) -> None:
    """Check some of the settings, where the others are not known yet.

    Raises
    ------
    InputError
        Unknown name (with a suggestion), wrong type, out of bounds.
    """
    fields = {field.name: field for field in describe(cls)}
    for name, value in values.items():
        if name not in fields:
            raise unknown_option(cls, f"--{name}")
        fields[name].check(value)


def from_values(cls: type[S], values: Mapping[str, Any]) -> S:
    """Build settings from values that already have their types; required ones must be there.

    Raises
    ------
    InputError
        When a required setting is missing or a value is out of bounds.
    """
    for field in describe(cls):
        if field.required and (field.name not in values or values[field.name] in (None, ())):
            raise InputError(f"{field.option} is required: {field.describe()}")
    return cls(**values)


def from_plain(cls: type[S], plain: Mapping[str, Any]) -> S:
    """Build settings from :meth:`Settings.to_mapping`'s form (read back from job.yaml)."""
    values: dict[str, Any] = {}
    for field in describe(cls):
        if field.name not in plain:
            continue
        value = plain[field.name]
        if field.many and isinstance(value, list):
            value = tuple(Path(v) if field.kind == "path" else v for v in value)
        elif field.kind == "path" and isinstance(value, str):
            value = Path(value)
        values[field.name] = value
    return from_values(cls, values)


def fingerprint(*parts: Any) -> str:
    """Return a short stable hash of plain values (numbers, text, lists, mappings)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def text_of(field: SettingField, value: Any = REQUIRED) -> str:
    """Text of a value (or of the default) that :meth:`SettingField.parse` reads back; "" for none."""
    value = field.default if value is REQUIRED else value
    if value is None or value is REQUIRED:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(str(v) for v in value)
    return repr(value) if isinstance(value, float) else str(value)


def markdown_table(cls: type[Settings]) -> str:
    """Return the table of a job's options for the documentation."""
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for field in describe(cls):
        default = "required" if field.required else (text_of(field) or "-")
        lines.append(f"| `{field.option}` | {default} | {field.describe()} |")
    return "\n".join(lines) + "\n"

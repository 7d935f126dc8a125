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
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.setting_field import REQUIRED, SettingField

S = TypeVar("S", bound="Settings")
_METADATA_KEY = "cryodrgn_ext_setting"
_SCALARS: dict[type, str] = {int: "int", float: "float", bool: "bool", str: "str", Path: "path"}


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
        What a suite connects to this setting: "aligned particles", the same "with latents" that they may have,
        "particles" (without alignments), or "result" (what an earlier job of ours has learned).
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

    #: Groups of settings of which one is given instead of the others.
    ALTERNATIVES: ClassVar[tuple[tuple[str, ...], ...]] = ()

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
    return from_values(cls, typed_values(cls, plain))


def typed_values(cls: type[Settings], plain: Mapping[str, Any]) -> dict[str, Any]:
    """Values of their types, unchecked, from those of :meth:`Settings.to_mapping`'s form that there still are.

    Parameters
    ----------
    cls : Settings class
    plain : mapping
        May be of another version, which had other settings.
    """
    values: dict[str, Any] = {}
    for field in describe(cls):
        if field.name not in plain:
            continue
        value = plain[field.name]
        if field.many and isinstance(value, list):
            value = tuple(Path(v) if field.kind == "path" and isinstance(v, str) else v for v in value)
        elif field.kind == "path" and isinstance(value, str):
            value = Path(value)
        values[field.name] = in_words(field, value)
    return values


def in_words(field: SettingField, value: Any) -> Any:
    """Plain value of a setting; "yes" or "no" for a choice of words that was a switch in an earlier version."""
    if field.kind == "str" and isinstance(value, bool):
        return "yes" if value else "no"
    return value


#: Choices of words that were switches once: keys of results of earlier versions have them as such.
FORMER_SWITCHES = ("fit_contrast",)


def as_switches(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of settings as keys take them, the same for results of earlier versions."""
    words = {"yes": True, "no": False}
    former = {name: plain[name] for name in FORMER_SWITCHES if name in plain}
    return {**plain, **{name: words.get(value, value) for name, value in former.items()}}


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

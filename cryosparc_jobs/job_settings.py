"""Settings of our jobs as a notebook gives them, and as an External job shows them: it has no parameters of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.settings import Settings, describe, from_values, unknown_option

S = TypeVar("S", bound=Settings)


def checked_settings(cls: type[S], given: Mapping[str, Any], ours: Mapping[str, str]) -> S:
    """Check settings by name, type and bounds.

    Parameters
    ----------
    cls : Settings class
    given : mapping
    ours : mapping
        Settings that the project decides and not the user, and what is said to one who gives them. Required ones are
        filled with placeholders.

    Raises
    ------
    InputError
        For an unknown name, with a suggestion, a wrong value, or a setting that cannot be given.
    """
    fields = {field.name: field for field in describe(cls)}
    for name in given:
        if name in ours:
            raise InputError(f"{name} cannot be given: {ours[name]}.")
        if name not in fields:
            raise unknown_option(cls, f"--{name}")
    placeholders = {name: Path(name) for name, field in fields.items() if name in ours and field.required}
    return from_values(cls, {**given, **placeholders})


def description(summary: str, settings: Settings, ours: Mapping[str, str]) -> str:
    """Text of the job's card: what it does, and the settings that differ from their defaults."""
    plain = settings.to_mapping()
    words = [
        f"{field.name} = {json.dumps(plain[field.name])}" for field in describe(type(settings))
        if field.name not in ours and getattr(settings, field.name) != field.default
    ]  # fmt: skip
    return f"{summary} Settings: {', '.join(words) or 'defaults'}."


def all_settings(settings: Settings, ours: Mapping[str, str]) -> str:
    """Line of the event log with every setting."""
    plain = {name: value for name, value in settings.to_mapping().items() if name not in ours}
    return "Settings: " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in plain.items())

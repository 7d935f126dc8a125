"""Settings of our jobs as an External job shows them: it has no parameters of its own."""

from __future__ import annotations

import json
from collections.abc import Collection

from cryodrgn_ext.settings import Settings, describe


def description(summary: str, settings: Settings, without: Collection[str]) -> str:
    """Text of the job's card: what it does, and the settings that differ from their defaults."""
    plain = settings.to_mapping()
    words = [
        f"{field.name} = {json.dumps(plain[field.name])}" for field in describe(type(settings))
        if field.name not in without and getattr(settings, field.name) != field.default
    ]  # fmt: skip
    return f"{summary} Settings: {', '.join(words) or 'defaults'}."


def all_settings(settings: Settings, without: Collection[str]) -> str:
    """Line of the event log with every setting."""
    plain = {name: value for name, value in settings.to_mapping().items() if name not in without}
    return "Settings: " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in plain.items())

"""Which engine suits the settings when the user leaves it open."""

from __future__ import annotations

from dataclasses import fields

from cryodrgn_ext.engines.neural.settings import NeuralSettings
from cryodrgn_ext.engines.settings import EngineSettings
from cryodrgn_ext.engines.subspace.settings import MOST_COMPONENTS
from cryodrgn_ext.settings import Settings


def choose_engine(settings: Settings) -> str:
    """Name of the engine for a job's settings.

    ``auto`` is the subspace engine, unless something is asked for that only a network does: options of the network,
    no latent at all, or more dimensions than the subspace engine takes.

    Parameters
    ----------
    settings : Settings
        With a field ``engine`` and those of the engines.
    """
    name: str = settings.engine  # type: ignore[attr-defined]
    if name != "auto":
        return name
    zdim: int = settings.zdim  # type: ignore[attr-defined]
    return "neural" if not 1 <= zdim <= MOST_COMPONENTS or network_options(settings) else "subspace"


def network_options(settings: Settings) -> tuple[str, ...]:
    """Names of the settings that only the neural engine has and that differ from their defaults."""
    shared = {field.name for field in fields(EngineSettings)}
    own = [field for field in fields(NeuralSettings) if field.name not in shared]
    return tuple(field.name for field in own if getattr(settings, field.name, field.default) != field.default)

"""Options that engines share, and the way from a job's settings to an engine's. No torch here: entry points read it.

Every option of an engine is declared once, in its engine's settings class; a job's settings class inherits from the
classes of the engines that it offers, and an engine gets its own back by :func:`options_of`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeVar

from cryodrgn_ext.settings import Settings, setting

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class ComputeSettings(Settings):
    """Options of how an engine computes, whichever it is (see :class:`cryodrgn_ext.engines.context.EngineContext`)."""

    checkpoint_minutes: float = setting(
        5.0, low=0.0, high=1440, unit="min", help="Longest time between checkpoints within a pass"
    )
    memory_GB: float | None = setting(
        None,
        low=0.1,
        high=4096,
        unit="GB",
        help="Coefficients are kept in memory (of the GPU, if one computes) up to this size, else on disk; if not "
        "given, half of what is free",
    )
    device: str = setting(
        "auto", choices=("auto", "cpu", "cuda"), help="Where to compute; auto takes a GPU if there is"
    )
    seed: int = setting(0, low=0, high=2**31 - 1, help="Seed of everything random")


@dataclass(frozen=True)
class EngineSettings(Settings):
    """Options that all engines have."""

    zdim: int = setting(8, low=0, high=128, help="Dimensions of the latent space; 0 learns one structure only")


def options_of(cls: type[S], settings: Settings) -> S:
    """Return the options of a class that a job's settings have by inheritance; further ones have their defaults.

    A job may have an option of the same name as an engine's that is another one, declared elsewhere: that of the
    engine then keeps its default.

    Parameters
    ----------
    cls : Settings class
        That of an engine, say.
    settings : Settings
        Of a job.
    """
    shared = [base for base in type(settings).__mro__ if issubclass(base, Settings) and issubclass(cls, base)]
    names = {field.name for base in shared for field in fields(base)}
    return cls(**{name: getattr(settings, name) for name in names})


def own_options(cls: type[EngineSettings]) -> tuple[str, ...]:
    """Names of the options that an engine does not share with all engines."""
    shared = {field.name for field in fields(EngineSettings)}
    return tuple(field.name for field in fields(cls) if field.name not in shared)


def changed_options(settings: Settings, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of ``names`` that differ from the defaults of the settings' own class."""
    default = {field.name: field.default for field in fields(settings)}
    return tuple(name for name in names if getattr(settings, name) != default[name])

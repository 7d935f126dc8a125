"""What a job made, in words that every suite can translate."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class OutputKind(Enum):
    """The kinds of results that suites know."""

    PARTICLES = "particles"
    MAP = "map"
    MASK = "mask"
    HALF_MAP = "half-map"
    PDF = "pdf log"


@dataclass(frozen=True)
class Output:
    """One result file that the user will want to go on with."""

    path: Path
    kind: OutputKind


@dataclass(frozen=True)
class JobResult:
    """Where a job put its results, and which of them a suite should offer as inputs of further jobs.

    Attributes
    ----------
    directory : Path
        The result directory.
    outputs : tuple of Output
        In the order in which they should be shown.
    """

    directory: Path
    outputs: tuple[Output, ...]

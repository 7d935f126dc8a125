"""Gain of single images by a model over the average structure, measured on images that it was not learned from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

SURE = 2.0  # standard errors
LEAST_GAIN = 1e-3  # nats per image: below it is rounding
ODDS = 20.0  # at which images are said to tell the model from the average structure


@dataclass(frozen=True)
class HeldOut:
    """Log likelihoods per image, in nats, of images under what the other half-set learned.

    Attributes
    ----------
    gain : float
        Of the model, its latents integrated out, over the average structure.
    error : float
        Its standard error.
    average : float
        Of the average structure over nothing.
    """

    gain: float
    error: float
    average: float

    @property
    def wins(self) -> bool:
        """Whether the model explains single images better than the average structure does, beyond chance."""
        return self.gain > max(SURE * self.error, LEAST_GAIN)

    def sentence(self) -> str:
        """Say it, for log and report."""
        wins = "the model explains images that it was not learned from" + self._together()
        none = "the model explains images that it was not learned from no better than the average structure does"
        return (
            "Each image held against what the other half-set learned: its log likelihood is on average "
            f"{self.gain:.3f} ± {self.error:.3f} nats higher with the model than with the average structure, which is "
            f"{self.average:.2f} nats above no structure at all: {wins if self.wins else none}."
        )

    def _together(self) -> str:
        """How many images it takes, where one alone tells nothing: a small gain may be as sure as a large one."""
        needed = math.ceil(math.log(ODDS) / max(self.gain, LEAST_GAIN))
        return f", {needed:,} of them together by odds of {ODDS:.0f} to 1" if needed > 1 else ""

    def as_numbers(self) -> dict[str, float]:
        """By name, for records."""
        return {"gain_nats": self.gain, "standard_error_nats": self.error, "average_structure_nats": self.average}

    @classmethod
    def from_numbers(cls, numbers: Mapping[str, float]) -> HeldOut:
        """Read what :meth:`as_numbers` made."""
        return cls(*(float(numbers[name]) for name in ("gain_nats", "standard_error_nats", "average_structure_nats")))


@runtime_checkable
class Weighed(Protocol):
    """An engine's result that was weighed on images that it was not learned from."""

    @property
    def held_out(self) -> Mapping[str, float]:
        """:meth:`HeldOut.as_numbers`; empty in models of earlier versions."""
        ...


def weighed(model: object) -> HeldOut | None:
    """Gain of images by an engine's result, where it was measured."""
    return HeldOut.from_numbers(model.held_out) if isinstance(model, Weighed) and model.held_out else None

"""Findings of a job in images of one structure, and what they mean for its own states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cryodrgn_ext.validation.verdict import LIKELY, NOT_SHOWN, PROVEN, Conclusion

#: Standard errors by which a state's correlation over single images must exceed the largest of the null's.
BEYOND = 3.0


@dataclass(frozen=True)
class NullFinding:
    """Findings in several sets of images of one structure.

    Attributes
    ----------
    runs : int
        Sets.
    states : int
        In all of them.
    proven : int
        How many of these were concluded to be proven, or likely.
    largest : float
        Largest correlation over single images that a state had.
    turn_deg, shift_A : float
        Errors of the poses that the images were made with, as large as those of the data.
    """

    runs: int
    states: int
    proven: int
    largest: float
    turn_deg: float
    shift_A: float

    @classmethod
    def of(cls, runs: Sequence[Sequence[Conclusion]], turn_deg: float, shift_A: float) -> NullFinding:
        """Sum up the conclusions on the states of each set."""
        every = [one for run in runs for one in run]
        claimed = sum(one.claim in (PROVEN, LIKELY) for one in every)
        largest = max((one.single_images for one in every), default=0.0)
        return cls(len(runs), len(every), claimed, largest, round(turn_deg, 3), round(shift_A, 3))

    def plain(self) -> dict[str, Any]:
        """Values for files."""
        return asdict(self)

    def sentence(self) -> str:
        """Say what was found where there is nothing."""
        sets = f"{self.runs} sets" if self.runs > 1 else "a set"
        return (
            f"The same training, run on {sets} of images of one structure (each with the pose, CTF, scale and noise of "
            f"a particle, poses wrong by {self.turn_deg:.1f}° and {self.shift_A:.1f} Å as those of these particles "
            f"seem to be, or less), claimed {self.proven} of {self.states} states."
        )

    def judge(self, conclusion: Conclusion) -> Conclusion:
        """Take a claim back that is no more than what was claimed of one structure."""
        if conclusion.claim not in (PROVEN, LIKELY) or self.proven == 0:
            return conclusion
        if conclusion.single_images > self.largest + BEYOND * conclusion.error:
            return conclusion
        return replace(conclusion, claim=NOT_SHOWN, of="", reason="the same is found in images of one structure")

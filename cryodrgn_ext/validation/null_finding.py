"""Findings of a job in images of one structure, and what they mean for its own states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from scipy.special import ndtr

from cryodrgn_ext.validation.evidence import SIGNIFICANCE
from cryodrgn_ext.validation.verdict import LIKELY, NOT_SHOWN, PROVEN, Conclusion

#: Standard errors by which a state's correlation over single images must exceed the largest of the null's.
BEYOND = 3.0
#: Standard errors below which a claim is held against a training on images of one structure. What models learn from
#: noise is about one standard error.
WEAK = 6.0


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
    mean : float
        Of the states' correlations: what a model that is learned from noise makes of it, since its components fit all
        coefficients of the images that they were learned from.
    """

    runs: int
    states: int
    proven: int
    largest: float
    turn_deg: float
    shift_A: float
    mean: float = 0.0

    @classmethod
    def of(cls, runs: Sequence[Sequence[Conclusion]], turn_deg: float, shift_A: float) -> NullFinding:
        """Sum up the conclusions on the states of each set."""
        every = [one for run in runs for one in run]
        claimed = sum(one.claim in (PROVEN, LIKELY) for one in every)
        largest = max((one.single_images for one in every), default=0.0)
        values = [one.single_images for one in every]
        mean = round(max(sum(values) / max(len(values), 1), 0.0), 4)
        return cls(len(runs), len(every), claimed, largest, round(turn_deg, 3), round(shift_A, 3), mean)

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
        """Take a claim back that is no more than what was claimed of one structure, or what is learned from noise."""
        if conclusion.claim not in (PROVEN, LIKELY):
            return conclusion
        like_null = self.proven > 0 and conclusion.single_images <= self.largest + BEYOND * conclusion.error
        if like_null or self._chance(conclusion) >= SIGNIFICANCE * self.runs / max(self.states, 1):
            return replace(conclusion, claim=NOT_SHOWN, of="", reason="the same is found in images of one structure")
        return conclusion

    def _chance(self, conclusion: Conclusion) -> float:
        """Chance of a correlation as large where the expectation is the null's mean, which is known to some error."""
        error = conclusion.error * (1 + 1 / max(self.states, 1)) ** 0.5
        if not error > 0 or not self.mean > 0:
            return 0.0
        return float(ndtr((self.mean - conclusion.single_images) / error))


def hangs_on_weak_states(conclusions: Sequence[Conclusion]) -> bool:
    """Whether states are claimed, and none by so much that what is learned from noise could not be it."""
    claimed = [one for one in conclusions if one.claim in (PROVEN, LIKELY)]
    return bool(claimed) and all(one.single_images < WEAK * one.error for one in claimed)


def without_gain(conclusions: Sequence[Conclusion]) -> list[Conclusion]:
    """Conclusions on states of a model that explains images which it was not learned from no better than one structure.

    Claims that all are weak are taken back. Strong ones stay: a model can be too coarse, or follow too few particles,
    for a gain, and its states differ all the same.
    """
    if not hangs_on_weak_states(conclusions):
        return list(conclusions)
    reason = "the model explains images that it was not learned from no better than one structure does"
    return [
        replace(one, claim=NOT_SHOWN, of="", reason=reason) if one.claim in (PROVEN, LIKELY) else one
        for one in conclusions
    ]

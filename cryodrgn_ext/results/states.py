"""states/ of a result directory: reconstructions from original images in two halves, and what they prove."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.durable_files import atomic_directory
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.map_origin import masking, reconstructed
from cryodrgn_ext.images.maps import write_map
from cryodrgn_ext.plain_files import load_json, write_json
from cryodrgn_ext.results.fsc_tables import MASKED, write_fsc_table
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.validation.evidence import Verdict
from cryodrgn_ext.validation.states import State
from cryodrgn_ext.validation.verdict import (
    LIKELY,
    PROVEN,
    Conclusion,
    conclude,
    earlier_conclusion,
    name_junk,
    together,
)

DESCRIPTION_NAME = "state.json"


@dataclass(frozen=True)
class StateResult:
    """One state as the report and job.yaml show it.

    Attributes
    ----------
    number : int
        From 0.
    particles : int
    resolution_A : float
    fsc : list of float
        Of shells 0 .. D // 2.
    verdict : str
        "distinct", "not distinguishable" or "not tested".
    evidence : str
        What the comparison with random subsets says, in one line.
    key : str
        Fingerprint of what it was made of.
    conclusion : Conclusion
    """

    number: int
    particles: int
    resolution_A: float
    fsc: list[float]
    verdict: str
    evidence: str
    key: str
    conclusion: Conclusion

    def sentence(self) -> str:
        """One line for the user."""
        return f"{self.particles} particles, {self.resolution_A:.2f} Å. {self.finding}"

    def concluded(self, conclusion: Conclusion) -> StateResult:
        """The state with another conclusion; where that takes a claim back, verdict and evidence say so."""
        distinct = Verdict.DISTINCT.value
        if self.verdict != distinct or conclusion.claim in (PROVEN, LIKELY):
            return replace(self, conclusion=conclusion)
        less = Verdict.NOT_DISTINGUISHABLE.value
        said = f"{less}{self.evidence.removeprefix(distinct)}; {conclusion.reason}"
        return replace(self, conclusion=conclusion, verdict=less, evidence=said)

    @property
    def finding(self) -> str:
        """Conclusion and what it rests on; the verdict, which has fewer words, is not said beside it."""
        conclusion, grounds = self.conclusion, self.evidence.removeprefix(self.verdict).removeprefix(": ")
        because = f" ({conclusion.reason})" if conclusion.reason and conclusion.reason not in grounds else ""
        return f"{conclusion.words.capitalize()}{because}: {grounds}"

    def summary(self) -> dict[str, Any]:
        """Values for job.yaml."""
        return {
            "state": self.number,
            "particles": self.particles,
            "resolution_A": round(self.resolution_A, 3),
            "verdict": self.verdict,
            "evidence": self.evidence,
            **self.conclusion.summary(),
        }


def write_state(
    directory: Path, state: State, key: str, curves: Mapping[str, NDArray[np.floating]] | None = None
) -> None:
    """Write the folder of a state, atomically: maps, mask, FSC, and what :func:`read_state` reads.

    Parameters
    ----------
    directory : Path
    state : State
    key : str
        Fingerprint of what it was made of.
    curves : mapping, optional
        Columns of fsc.star; the state's own FSC, of masked maps, when omitted.
    """
    result = StateResult(
        state.label, state.n, state.resolution_A, state.fsc.tolist(), state.verdict, state.evidence.sentence(), key,
        conclude(state.evidence),
    )  # fmt: skip
    with atomic_directory(directory) as temporary:
        for name, data in (("map", state.map), ("half1", state.half1), ("half2", state.half2), ("mask", state.mask)):
            which = f"state {state.label:02d}"
            origin = masking(f"of {which}") if name == "mask" else reconstructed(state.n, f"{which}, {name}")
            write_map(temporary / f"{name}.mrc", data, state.pixel_size_A, origin)
        columns = {MASKED: state.fsc} if curves is None else curves
        write_fsc_table(temporary / "fsc.star", columns, state.pixel_size_A, len(state.map))
        write_json(temporary / DESCRIPTION_NAME, asdict(result))


def read_state(directory: Path) -> StateResult | None:
    """Read what :func:`write_state` wrote of a state; None when it is missing or damaged."""
    try:
        found = load_json(directory / DESCRIPTION_NAME)
        conclusion = found.pop("conclusion", None)
        known = earlier_conclusion(found["verdict"]) if conclusion is None else Conclusion(**conclusion)
        return StateResult(**found, conclusion=known)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def read_states(layout: Layout, numbers: Iterable[int]) -> list[StateResult]:
    """Read the states of these numbers.

    Raises
    ------
    InputError
        When a state is missing.
    """
    states = []
    for number in numbers:
        state = read_state(layout.state(number))
        if state is None:
            raise InputError(f"{layout.state(number)} is missing or damaged: delete {layout.states} and continue.")
        states.append(state)
    return states


def with_junk_named(
    states: Iterable[StateResult], label: NDArray[np.integer], empty_rows: NDArray[np.integer]
) -> list[StateResult]:
    """States judged together, of which those that are mostly images without a particle are concluded to be that.

    Parameters
    ----------
    states : iterable of StateResult
    label : ndarray
        (N,) state of each particle.
    empty_rows : ndarray
        (m,) images that show nothing of the consensus.
    """
    states = list(states)
    judged = together([state.conclusion for state in states])
    states = [replace(state, conclusion=one) for state, one in zip(states, judged, strict=True)]
    empty = np.bincount(label[empty_rows][label[empty_rows] >= 0], minlength=int(label.max(initial=0)) + 1)
    return [
        replace(state, conclusion=name_junk(state.conclusion, float(empty[state.number]) / max(state.particles, 1)))
        for state in states
    ]

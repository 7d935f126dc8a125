"""Which sets of particles a validate job tests: states of a train or landscape job, or sets that the user names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.particles import ParticleSet
from cryodrgn_ext.plain_files import write_arrays
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.chosen_rows import listed_rows, removed_rows
from cryodrgn_ext.results.learned_result import LearnedResult

TABLE_NAME = "sets.npz"


@dataclass(frozen=True)
class ValidatedSets:
    """Disjoint sets of particles.

    Attributes
    ----------
    label : ndarray
        (N,) int32 number of the set that each particle is in; negative for none.
    names : dict of int to str
        Number to name of the sets to test; ``label`` may hold more sets, which count in the statistics only.
    """

    label: NDArray[np.int32]
    names: dict[int, str]

    @property
    def digest(self) -> str:
        """Fingerprint of who is in which set."""
        return hashlib.sha256(self.label.tobytes()).hexdigest()


def write_set_table(directory: Path, sets: ValidatedSets, uid: NDArray[np.uint64]) -> None:
    """Write sets.npz into a result directory, atomically."""
    number = np.array(list(sets.names), np.int32)
    name = np.array(list(sets.names.values()))
    write_arrays(directory / TABLE_NAME, {"uid": uid, "label": sets.label, "number": number, "name": name})


def choose_sets(
    result: LearnedResult, wanted: Sequence[int], indices: Sequence[str], monitor: Monitor
) -> ValidatedSets:
    """Find the sets that the user names.

    Parameters
    ----------
    result : LearnedResult
    wanted : sequence of int
        States; all that the result has, or that the input is of, when empty.
    indices : sequence of str
        Files that name the particles of a set each, instead of states.
    monitor : Monitor

    Raises
    ------
    InputError
        When a state or file does not exist, a file names other particles, or two files name the same one.
    """
    if indices:
        if wanted:
            raise InputError("give --state or --indices, not both: sets to test must not overlap.")
        return _given_sets([Path(name) for name in indices], result.particles, monitor)
    if result.states is None:
        if wanted:
            result.require_states()
        return ValidatedSets(np.zeros(result.particles.n, np.int32), {0: "all particles"})
    if not wanted and result.only_state is not None:
        wanted = (result.only_state,)
    present = np.unique(result.states.label[result.states.label >= 0]).tolist()
    missing = sorted(set(wanted) - set(present))
    if missing:
        raise InputError(f"{result.directory} has no state {missing[0]}; it has {', '.join(map(str, present))}.")
    label = result.states.label
    if result.listed is not None:
        monitor.message(removed_rows(result))
        kept = np.zeros(len(label), bool)
        kept[result.listed] = True
        label = np.where(kept, label, -1)
    return ValidatedSets(label, {number: f"state {number:02d}" for number in present if not wanted or number in wanted})


def _given_sets(paths: Sequence[Path], particles: ParticleSet, monitor: Monitor) -> ValidatedSets:
    label = np.full(particles.n, -1, np.int32)
    for number, path in enumerate(paths):
        rows = listed_rows(path, particles, monitor)
        if len(rows) == 0:
            raise InputError(f"{path} names no particles.")
        taken = rows[label[rows] >= 0]
        if len(taken):
            raise InputError(
                f"particle {taken[0]} (from 0) is in {paths[label[taken[0]]]} and in {path}: sets to test must not "
                "overlap; validate them in two jobs."
            )
        label[rows] = number
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return ValidatedSets(label, dict(enumerate(names)))

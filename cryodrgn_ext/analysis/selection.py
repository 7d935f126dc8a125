"""Selections of particles: which rows, by what criterion. Pure functions from arrays to sorted, unique indices."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cryodrgn_pickle import read_indices
from cryodrgn_ext.plain_files import readable

IndexArray = NDArray[np.int64]
COMBINATIONS: dict[str, Callable[[IndexArray, IndexArray], IndexArray]] = {
    "union": np.union1d,
    "intersection": np.intersect1d,
    "difference": np.setdiff1d,
}


@dataclass(frozen=True)
class LatentRange:
    """``low <= column <= high``; an open end is infinite."""

    column: str
    low: float
    high: float


def select_labels(label: NDArray[np.integer], wanted: Sequence[int], what: str = "cluster") -> IndexArray:
    """Particles whose ``label`` (N,) is among ``wanted``.

    Parameters
    ----------
    label : ndarray
        (N,) integers; negative means "none".
    wanted : sequence of int
    what : str
        Name of the labels in error messages: cluster, state.

    Raises
    ------
    InputError
        When a wanted label occurs nowhere.
    """
    present = np.unique(label[label >= 0])
    missing = sorted(set(wanted) - set(present.tolist()))
    if missing:
        raise InputError(f"there is no {what} {missing[0]}; choose among {_summary(present)}")
    return np.flatnonzero(np.isin(label, np.asarray(wanted)))


def parse_range(text: str) -> LatentRange:
    """Read ``column:low:high``, e.g. ``z1:0.2:1.5``; either bound may be left empty (``pc1::0``).

    Raises
    ------
    InputError
        When the text has another form, or the bounds are in the wrong order.
    """
    parts = text.split(":")
    if len(parts) != 3 or not re.fullmatch(r"\w+", parts[0].strip()):
        raise InputError(f"range '{text}' is not of the form column:low:high, for example z1:0.2:1.5 or pc1::0")
    try:
        low = float(parts[1]) if parts[1].strip() else -math.inf
        high = float(parts[2]) if parts[2].strip() else math.inf
    except ValueError as error:
        raise InputError(f"range '{text}': the bounds must be numbers ({error})") from error
    if not low <= high:
        raise InputError(f"range '{text}': the lower bound {parts[1]} exceeds the upper bound {parts[2]}")
    return LatentRange(parts[0].strip(), low, high)


def latent_columns(z: NDArray[np.floating], **further: NDArray[np.floating]) -> dict[str, NDArray[np.floating]]:
    """Columns by name: z1..zq from latents (N, q), and name1.. of each further array (N, m), e.g. ``pc=...``."""
    return {
        f"{name}{i + 1}": values[:, i] for name, values in {"z": z, **further}.items() for i in range(values.shape[1])
    }


def select_ranges(columns: Mapping[str, NDArray[np.floating]], ranges: Sequence[str | LatentRange]) -> IndexArray:
    """Particles inside ALL of the ``ranges``.

    Parameters
    ----------
    columns : mapping
        Name to values (N,); see :func:`latent_columns`.
    ranges : sequence of str or LatentRange
        At least one.

    Raises
    ------
    InputError
        When a range is malformed or names a column that does not exist.
    """
    if not ranges or not columns:
        raise InputError("no range given; write for example z1:0.2:1.5")
    inside = np.ones(len(next(iter(columns.values()))), np.bool_)
    for item in ranges:
        chosen = parse_range(item) if isinstance(item, str) else item
        if chosen.column not in columns:
            raise InputError(f"there is no latent column '{chosen.column}'; choose among {', '.join(columns)}")
        values = columns[chosen.column]
        inside &= (values >= chosen.low) & (values <= chosen.high)
    return np.flatnonzero(inside)


def read_index_file(path: str | Path, n: int) -> IndexArray:
    """Indices of particles (0-based) from a file: ``.npy``, ``.txt`` (one per line) or cryoDRGN's ``.pkl``.

    Parameters
    ----------
    path : path-like
    n : int
        Number of particles that the indices refer to.

    Raises
    ------
    InputError
        When the file is missing, has another form, or an index does not exist.
    """
    path = Path(path)
    with readable(path, "a list of particle indices is expected, .npy, .txt or .pkl"):
        if path.suffix == ".npy":
            values: NDArray[np.generic] = np.load(path, allow_pickle=False)
        elif path.suffix == ".txt":
            values = np.array([float(word) for word in path.read_text(encoding="utf-8").split()])
        elif path.suffix == ".pkl":
            values = read_indices(path)
        else:
            raise InputError(f"{path}: index lists end in .npy, .txt or .pkl, not in '{path.suffix}'")
    return check_indices(values, n, str(path))


def check_indices(values: NDArray[np.generic], n: int, source: str = "the selection") -> IndexArray:
    """Sorted unique indices from a boolean array (n,) or a one-dimensional array of integers in 0..n-1.

    Raises
    ------
    InputError
        Naming ``source`` and the first entry that is no index.
    """
    if values.dtype == np.bool_ and values.shape == (n,):
        return np.flatnonzero(values)
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise InputError(f"{source}: a one-dimensional list of integers expected, got {values.dtype} {values.shape}")
    numbers = values.astype(np.float64)
    wrong = ~((numbers >= 0) & (numbers < n) & (numbers == np.floor(numbers)))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{source}: entry {row + 1} is {numbers[row]:.10g}, but indices of {n} particles are the integers 0 to "
            f"{n - 1}"
        )
    if len(numbers) == n > 2 and numbers.max() == 1:
        raise InputError(
            f"{source}: has an entry, 0 or 1, for every one of {n} particles, as a mask has, but numbers are taken for "
            "rows (from 0): save the mask as booleans, or the rows that it marks (numpy.flatnonzero)"
        )
    return np.unique(values.astype(np.int64))


def combine(selections: Sequence[IndexArray], how: str = "intersection") -> IndexArray:
    """Combine selections from left to right.

    Parameters
    ----------
    selections : sequence of ndarray
        Sorted unique indices; at least one.
    how : str
        ``union``, ``intersection`` or ``difference`` (the first without all others).

    Raises
    ------
    InputError
        When there is nothing to combine or ``how`` is unknown.
    """
    if how not in COMBINATIONS:
        raise InputError(f"selections cannot be combined by '{how}'; choose among {', '.join(COMBINATIONS)}")
    if not selections:
        raise InputError("nothing was selected: give clusters, states, ranges or an index file")
    return functools.reduce(COMBINATIONS[how], selections)


def complement(selection: IndexArray, n: int) -> IndexArray:
    """All of 0..n-1 that are not selected."""
    return np.setdiff1d(np.arange(n), selection)


def _summary(labels: NDArray[np.integer]) -> str:
    numbers = [str(label) for label in labels.tolist()]
    return ", ".join(numbers) if len(numbers) <= 12 else f"{numbers[0]}, {numbers[1]}, ... {numbers[-1]}"

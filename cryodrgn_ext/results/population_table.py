"""populations.json in checkpoint/ of a result: shares of the states, counted and by maximum likelihood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cryodrgn_ext.plain_files import load_json, readable, write_json
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.states import StateResult
from cryodrgn_ext.validation.state_weights import StateWeights
from cryodrgn_ext.validation.verdict import LIKELY, PROVEN

POPULATIONS_NAME = "populations.json"


def write_populations(layout: Layout, numbers: Sequence[int], found: StateWeights | None) -> None:
    """Write the populations of the states of these numbers, atomically; an empty list where there are none."""
    rows = []
    if found is not None:
        columns = (found.nearest, found.weight, found.low, found.high)
        for number, values in zip(numbers, zip(*columns, strict=True), strict=True):
            named = dict(zip(("nearest", "maximum_likelihood", "low", "high"), values, strict=True))
            rows.append({"state": int(number), **{name: round(float(value), 5) for name, value in named.items()}})
    write_json(layout.checkpoint / POPULATIONS_NAME, {"populations": rows})


def read_populations(layout: Layout) -> list[dict[str, Any]]:
    """Read them, as they stand in job.yaml; none where an earlier version wrote none.

    Raises
    ------
    InputError
        When the file is damaged.
    """
    path = layout.checkpoint / POPULATIONS_NAME
    if not path.exists():
        return []
    with readable(path, "delete it and the folder states/; both are made anew"):
        return list(load_json(path)["populations"])


def claimed_populations(layout: Layout, states: Sequence[StateResult]) -> list[dict[str, Any]]:
    """Populations as :func:`read_populations` has them; none where no state is claimed, so that none can be counted."""
    claimed = any(state.conclusion.claim in (PROVEN, LIKELY) for state in states)
    return read_populations(layout) if claimed else []


def populations_sentence(found: Sequence[Mapping[str, Any]], names: Mapping[int, str] | None = None) -> str:
    """One line for the log."""
    shares = ", ".join(
        f"{one['state'] if names is None else names[one['state']]}: {100 * one['maximum_likelihood']:.1f} % "
        f"({100 * one['low']:.1f} to {100 * one['high']:.1f}; {100 * one['nearest']:.1f} % are nearest)"
        for one in found
    )
    return f"Populations by maximum likelihood, with 95 % intervals: {shares}."

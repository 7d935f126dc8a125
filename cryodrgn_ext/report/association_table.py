"""The table of a report that says what states and latents go with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cryodrgn_ext.report.page import ReportTable

CAPTION = (
    "Share of the variance that each of these explains by itself, without what chance explains; chance is how often "
    "images in another order have as much. In single images: the largest share of a state's difference that goes with "
    "it. Preferred views or ice can go with a real motion; a state that is nothing else is named above."
)


def association_table(explained: Sequence[Mapping[str, Any]], states: Sequence[Mapping[str, Any]]) -> list[ReportTable]:
    """Make the table from ``explained_by`` and ``states`` of job.yaml; none where an earlier version wrote neither."""
    if not explained:
        return []
    rows = []
    for one in explained:
        shares = [
            state["explained_by"][one["name"]] for state in states if one["name"] in state.get("explained_by", {})
        ]
        rows.append((one["name"], _percent(one["of_states"]), _percent(one["of_latents"]),
                     _percent(max(shares, default=None)), f"{one['chance']:.2g}"))  # fmt: skip
    return [ReportTable("What states and latents go with", CAPTION,
                        ("", "of the states", "of the latents", "in single images", "chance"), rows)]  # fmt: skip


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"

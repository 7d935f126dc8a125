"""From the figures of all programs to one table: who reaches the peer's quality, and how long it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PEER = "cryodrgn"
COLUMNS = (
    ("set", "set"), ("program", "program"),
    ("seconds_to_latents", "latents s"), ("seconds_to_volumes", "volumes s"),
    ("reach_latents", "s to peer's latents"), ("ratio_latents", "peer/ours"),
    ("reach_fsc", "s to peer's FSC"), ("ratio_fsc", "peer/ours"),
    ("reach_fsc_moving", "s to its moving FSC"), ("ratio_fsc_moving", "peer/ours"),
    ("spearman", "Spearman"), ("r2", "R2"), ("ari", "ARI"),
    ("fsc_area", "FSC"), ("fsc_area_moving", "moving FSC"),
    ("fsc_area_inner", "FSC below D/2 - 1"), ("fsc_area_inner_moving", "moving FSC below D/2 - 1"),
    ("cryobench_fsc_auc", "CryoBench AUC"),
    ("images_per_s_and_pass", "images/s"), ("peak_memory_MB", "peak MB"),
)  # fmt: skip


def add_comparison(results: Mapping[str, dict[str, Any]], discrete: bool) -> None:
    """Put into every result how long it took to the peer's final quality, and the ratio to the peer's own time.

    Latents are as good when ``r2`` (for discrete sets ``ari``) is not below the peer's at its last epoch; the peer
    itself may have been as good at an earlier one. Volumes exist when latents do and 50 of them are rendered. None
    where the quality is not reached.
    """
    peer = results[PEER]
    measure = "ari" if discrete else "r2"
    for result in results.values():
        good = [step["seconds"] for step in result["epochs"] if step[measure] >= peer[measure]]
        result["reach_latents"] = good[0] if good else None
        for name in ("fsc_area", "fsc_area_moving"):
            reached = result[name] >= peer[name]
            result[name.replace("fsc_area", "reach_fsc")] = result["seconds_to_volumes"] if reached else None
    for result in results.values():
        for name in ("latents", "fsc", "fsc_moving"):
            own, other = result[f"reach_{name}"], peer[f"reach_{name}"]
            result[f"ratio_{name}"] = None if own is None else round(other / own, 1)


def text_table(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Lay out all sets and programs as text."""
    rows = [[title for _, title in COLUMNS]]
    for set_name, programs in results.items():
        for program, figures in programs.items():
            named = {"set": set_name, "program": program, **figures}
            rows.append([_shown(key, named.get(key)) for key, _ in COLUMNS])
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    pairs = list(zip(row, widths, strict=True))
    names = [text.ljust(width) for text, width in pairs[:2]]
    return "  ".join(names + [text.rjust(width) for text, width in pairs[2:]]).rstrip()


def _shown(key: str, value: object) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if key == "peak_memory_MB":
        return f"{value:.0f}"
    return f"{value:.1f}" if key.startswith(("seconds", "reach", "ratio", "images")) else f"{value:.3f}"

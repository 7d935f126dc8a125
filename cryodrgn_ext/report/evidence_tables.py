"""Tables of a report that say what states and latents go with, and what models that never met have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryodrgn_ext.report.page import ReportTable

CAPTION = (
    "Share of the variance that each of these explains by itself, without what chance explains; chance is how often "
    "images in another order have as much. In single images: the largest share of a state's difference that goes with "
    "it. Preferred views or ice can go with a real motion; a state that is nothing else is named above."
)
HALVES_CAPTION = (
    "Each model was trained on one half-set alone; states are matched by their differences from the consensus of their "
    "half, made of original images. What both have is no invention of a model; errors of poses and contrast are in "
    "both halves alike, and are judged above."
)
POPULATIONS_CAPTION = (
    "Shares of the particles: by the state that each is nearest to, which noise distorts, and by maximum likelihood "
    "over all images, each told by maps of the half-set that it is not in. Where a motion is continuous, the shares "
    "are those of as many points along it."
)
POWER_CAPTION = (
    "The differences of these states, planted into images of one structure with the poses, CTF, scale and noise of "
    "these particles; then the same training, states and verdicts. Found: at least one state was claimed. Agreement: "
    "adjusted Rand index of the states that were planted and found (1: the same, 0: by chance)."
)
CORRECTED_CAPTION = (
    "FSC 0.143 of the map of each state's own particles, and of all particles from whose images the difference to that "
    "state was taken away (all_particles/ in its folder): each half by differences that the other one shows. It is "
    "better than the average of all where it moves, and than the state's own map where it does not."
)
RELION_CAPTION = (
    "Each set and all particles, reconstructed in halves by relion_reconstruct: correlation of the difference between "
    "a set and all, between RELION's halves and with the difference of the maps here. Refined: after relion_refine has "
    "refined each half of the set, and of all, by itself from the map of all particles. What comes back is no proof: "
    "differences by contrast or wrong poses do as well, even after a few iterations of relion_refine."
)


@dataclass(frozen=True)
class OnRequest:
    """What only validate finds, when asked, as job.yaml has it.

    Attributes
    ----------
    halves : mapping or None
        ``independent_halves``.
    power : sequence
        ``power``.
    relion : sequence
        ``relion_check``.
    corrected : sequence
        ``motion_corrected``.
    """

    halves: Mapping[str, Any] | None = None
    power: Sequence[Mapping[str, Any]] = ()
    relion: Sequence[Mapping[str, Any]] = ()
    corrected: Sequence[Mapping[str, Any]] = ()


def evidence_tables(
    explained: Sequence[Mapping[str, Any]],
    states: Sequence[Mapping[str, Any]],
    asked: OnRequest = OnRequest(),
    populations: Sequence[Mapping[str, Any]] = (),
) -> list[ReportTable]:
    """Make the tables from what job.yaml has of a job; none where an earlier version wrote nothing.

    Parameters
    ----------
    explained : sequence
        ``explained_by``.
    states : sequence
        ``states``.
    asked : OnRequest
    populations : sequence
        ``populations``.
    """
    found = [_populations(populations)] if populations else []
    found += _associations(explained, states)
    if asked.corrected:
        found.append(_corrected(asked.corrected, states))
    if asked.power:
        found.append(_power(asked.power))
    if asked.halves is not None:
        found.append(_halves(asked.halves))
    if asked.relion:
        found.append(_relion(asked.relion))
    return found


def _populations(found: Sequence[Mapping[str, Any]]) -> ReportTable:
    rows = [
        (f"state {one['state']:02d}", f"{100 * one['nearest']:.1f} %", f"{100 * one['maximum_likelihood']:.1f} %",
         f"{100 * one['low']:.1f} to {100 * one['high']:.1f} %")
        for one in found
    ]  # fmt: skip
    return ReportTable("Populations", POPULATIONS_CAPTION, ("", "nearest", "maximum likelihood", "95 % interval"), rows)


def _corrected(found: Sequence[Mapping[str, Any]], states: Sequence[Mapping[str, Any]]) -> ReportTable:
    own = {state["state"]: state["resolution_A"] for state in states}
    rows = [
        (f"state {one['state']:02d}", f"{own[one['state']]:.2f} Å", f"{one['resolution_A']:.2f} Å",
         f"{one['moving_resolution_A']:.2f} Å")
        for one in found
    ]  # fmt: skip
    head = ("", "its own particles", "all particles", "there, where it moves")
    return ReportTable("All particles as they would look in each state", CORRECTED_CAPTION, head, rows)


def _power(doses: Sequence[Mapping[str, Any]]) -> ReportTable:
    rows = [
        (_percent(one["strength"]), _percent(one["share"] if one["strength"] > 0 else 0.0),
         f"{one['found']} of {one['runs']} sets", f"{one['claimed']} of {one['states']}", f"{one['agreement']:.2f}")
        for one in doses
    ]  # fmt: skip
    head = ("strength", "of the particles", "found", "states claimed", "agreement")
    return ReportTable("What these data could show", POWER_CAPTION, head, rows)


def _relion(checked: Sequence[Mapping[str, Any]]) -> ReportTable:
    rows = []
    for one in checked:
        name = f"state {one['state']:02d}"
        rows.append(_relion_row(name, one))
        if "refined" in one:
            rows.append(_relion_row(f"{name}, refined", one["refined"]))
    head = ("", "between halves", "with ours", "postprocess", "comes back")
    return ReportTable("RELION's own reconstructions", RELION_CAPTION, head, rows)


def _relion_row(name: str, one: Mapping[str, Any]) -> tuple[str, ...]:
    resolution = "-" if one["resolution_A"] is None else f"{one['resolution_A']:.2f} Å"
    back = "yes" if one["comes_back"] else "no"
    return name, f"{one['between_halves']:.2f}", f"{one['with_ours']:.2f}", resolution, back


def _halves(found: Mapping[str, Any]) -> ReportTable:
    rows = [
        (f"{one['first']} and {one['second']}", _percent(one["share_first"]), _percent(one["share_second"]),
         f"{one['correlation']:.2f}", f"{one['resolution_A']:.1f} Å", "yes" if one["shared"] else "no")
        for one in found["states"]
    ]  # fmt: skip
    shares = ", ".join(_percent(share) for share in found["agreement"])
    caption = f"{HALVES_CAPTION} Of the components of the first model the second one has {shares}."
    head = ("states", "of half 1", "of half 2", "correlation", "FSC 0.143", "in both")
    return ReportTable("Two models that never met", caption, head, rows)


def _associations(explained: Sequence[Mapping[str, Any]], states: Sequence[Mapping[str, Any]]) -> list[ReportTable]:
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

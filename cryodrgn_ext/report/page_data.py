"""Data of the script of a report's page, as JSON that is safe inside HTML.

Columns of particles are whole numbers of 16 bits over the range of the column, in base64: two bytes a value, finer
than a screen can show. The budget for them bounds the size of the page, whatever the number of particles.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latents import PrincipalComponents, principal_components
from cryodrgn_ext.analysis.shown_particles import ShownParticles, choose_shown, group_weights
from cryodrgn_ext.report.page import ReportContent, StateSummary, group_colors
from cryodrgn_ext.report.plots import label_colors
from cryodrgn_ext.results.particle_columns import VIEWS

MISSING = 65535
DATA_BLOCK = r'<script type="application/json" id="report-data">(.*?)</script>'
COUNT = "number of particles"  # an axis of its own, as in the script
BUDGET_BYTES = 3_500_000  # of columns before base64, which adds a third
MOST_COMPONENTS = 10
MOST_LEVELS = 20


def page_data(content: ReportContent) -> str:
    """Everything that the page draws, as JSON without a sign that could end the block it stands in."""
    data: dict[str, Any] = {
        "group": content.group_name,
        "scale": _packed((np.asarray(mpl.colormaps["viridis"](np.linspace(0, 1, 256)))[:, :3] * 255).round(), "u1"),
        "states": [_state(state, color) for state, color in zip(content.states, group_colors(content), strict=False)],
        "consensus": content.whole is not None,
        "charts": [chart.plain() for charts in content.charts.values() for chart in charts],
    }
    if content.z is not None:
        data |= _particles(content, content.z, principal_components(content.z))
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def charts_of_page(page: str) -> list[dict[str, Any]] | None:
    """Curves and bars of a report, as its page holds them; None where it is of an earlier version."""
    found = re.search(DATA_BLOCK, page, re.DOTALL)
    charts = json.loads(found.group(1)).get("charts") if found else None
    return charts if isinstance(charts, list) else None


def _state(state: StateSummary, color: str) -> dict[str, Any]:
    return {"label": state.label, "n": int(state.n), "color": color}


def _numbers(values: Sequence[float] | NDArray[np.floating]) -> list[float | None]:
    """Numbers of six digits; those that are not finite, which JSON has no word for, become null."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in np.asarray(values, float)]


def _particles(content: ReportContent, z: NDArray[np.floating], components: PrincipalComponents) -> dict[str, Any]:
    label = None if content.clusters is None else content.clusters.label
    centers = None if content.clusters is None else content.clusters.center_index
    shown = content.shown
    if shown is None:
        prefer = None if content.embedding is None else content.embedding.index
        index = choose_shown(len(z), label, centers, prefer)
        shown = ShownParticles(index, index + 1)
    keep = _within_budget(shown, z, content, label, centers)
    index = shown.index[keep]
    columns = _columns(content, z, components, shown, keep, label)
    weights = group_weights(len(z), label, index)
    points: dict[str, Any] = {
        "n": len(z),
        "exact": len(index) == len(z),
        "row": _packed(shown.row[keep], "<u4"),
        # In random order, so that no group lies on top of all others.
        "order": _packed(np.random.default_rng(0).permutation(len(index)), "<u4"),
        "weight": float(weights[0]),
    }
    if label is not None and content.clusters is not None:
        points |= {
            "group": _packed(label[index], "<u2"),
            "weights": _numbers(weights),
            "sizes": content.clusters.size.tolist(),
            "centers": np.searchsorted(index, content.clusters.center_index).tolist(),
        }
    if shown.stack is not None and shown.image is not None:
        used, stack = np.unique(shown.stack[keep], return_inverse=True)
        points |= {
            "stacks": [shown.stacks[k] for k in used],
            "stack": _packed(stack, "<u4"),
            "image": _packed(shown.image[keep], "<u4"),
        }
    names = [column["name"] for column in columns]
    planes = {**content.planes, "PCA": ("PC 1", "PC 2"), "UMAP": ("UMAP 1", "UMAP 2"), "Views": VIEWS}
    if z.shape[1] == 1:
        planes = {**content.planes, "histogram": ("z 1", COUNT), **planes}
    presets = [{"name": name, "axes": axes} for name, axes in planes.items() if {*axes} <= {*names, COUNT}]
    return {"columns": columns, "points": points, "presets": presets, "axes": presets[0]["axes"]}


def _within_budget(
    shown: ShownParticles,
    z: NDArray[np.floating],
    content: ReportContent,
    label: NDArray[np.integer] | None,
    centers: NDArray[np.integer] | None,
) -> NDArray[np.int64]:
    """Positions in ``shown`` of as many particles as the page may hold."""
    n_columns = 2 * z.shape[1] + len(shown.columns) + len(content.colorings) + 4
    most = BUDGET_BYTES // (2 * n_columns + 16)
    place = None if centers is None else np.flatnonzero(np.isin(shown.index, centers))
    return choose_shown(len(shown.index), None if label is None else label[shown.index], place, most=most)


def _columns(
    content: ReportContent,
    z: NDArray[np.floating],
    components: PrincipalComponents,
    shown: ShownParticles,
    keep: NDArray[np.int64],
    label: NDArray[np.integer] | None,
) -> list[dict[str, Any]]:
    index = shown.index[keep]
    columns: dict[str, NDArray[np.floating]] = {}
    if z.shape[1] > 1:
        for k in range(min(z.shape[1], MOST_COMPONENTS)):
            columns[f"PC {k + 1}"] = components.projections[index, k]
    if content.embedding is not None:
        place = np.minimum(np.searchsorted(content.embedding.index, index), len(content.embedding.index) - 1)
        known = content.embedding.index[place] == index
        for k in range(2):
            columns[f"UMAP {k + 1}"] = np.where(known, content.embedding.xy[place, k], np.nan)
    columns |= {f"z {k + 1}": z[index, k] for k in range(z.shape[1])}
    columns["distance from the mean latent"] = np.linalg.norm(z[index] - components.mean, axis=1)
    columns |= {name: np.asarray(values)[index] for name, values in content.colorings.items()}
    columns |= {name: np.asarray(values)[keep] for name, values in shown.columns.items()}
    packed = [_column(name, np.asarray(values, np.float64)) for name, values in columns.items()]
    if label is None:
        return packed
    colors = group_colors(content)
    names = [content.states[k].label if k < len(content.states) else str(k) for k in range(len(colors))]
    groups = {"name": content.group_name, "low": 0, "high": 1, "levels": names, "colors": colors}
    return [groups | {"data": _packed(label[index], "<u2")}, *packed]


def _column(name: str, values: NDArray[np.float64]) -> dict[str, Any]:
    """A column in 16 bits: codes of levels where a few whole numbers occur, else steps over its range."""
    finite = np.isfinite(values)
    known = values[finite]
    distinct = np.unique(known[:1000]) if len(known) else known
    if 0 < len(distinct) <= MOST_LEVELS and np.array_equal(distinct, np.rint(distinct)):
        distinct = np.unique(known)
    if 0 < len(distinct) <= MOST_LEVELS and np.array_equal(distinct, np.rint(distinct)):
        colors = label_colors(len(distinct))
        codes = np.full(len(values), MISSING)
        codes[finite] = np.searchsorted(distinct, known)
        return {
            "name": name, "low": 0, "high": 1, "levels": [f"{value:.0f}" for value in distinct],
            "colors": [to_hex(colors(k)) for k in range(len(distinct))], "data": _packed(codes, "<u2"),
        }  # fmt: skip
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    codes = np.full(len(values), MISSING)
    # Halves before the difference: the ends of a column may be the largest numbers that there are.
    span = high / 2 - low / 2
    codes[finite] = np.rint((known / 2 - low / 2) / span * (MISSING - 1)) if span > 0 else 0
    return {"name": name, "low": low, "high": high, "data": _packed(codes, "<u2")}


def _packed(values: NDArray[Any], kind: str) -> str:
    return base64.b64encode(np.asarray(values).astype(kind).tobytes()).decode("ascii")

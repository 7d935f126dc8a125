"""A selection as groups: one set of particles per state or cluster that was asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latents import cluster_latents
from cryodrgn_ext.analysis.selection import combine, complement, select_labels
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.options.select import SelectSettings
from cryodrgn_ext.jobs.select import choose
from cryodrgn_ext.results.learned_result import LearnedResult
from cryodrgn_ext.results.returned_particles import require_particles

ALL = "selected"


def choose_groups(settings: SelectSettings, result: LearnedResult) -> dict[str, NDArray[np.int64]]:
    """Rows (n,) int64, increasing, of every group that the settings ask for, by name.

    Each wanted state is a group, ``state_02``; without states each wanted cluster, ``cluster_02``; without either, and
    with ``invert``, everything together is the one group ``selected``. All other conditions hold for every group.

    Raises
    ------
    InputError
        When no condition is given, one cannot be met, or a group is empty.
    """
    if settings.invert or not (settings.state or settings.cluster):
        groups = {ALL: choose(settings, result)}
    else:
        what, wanted = ("state", settings.state) if settings.state else ("cluster", settings.cluster)
        label = _labels(settings, result, what)
        rest = replace(settings, state=(), cluster=() if what == "cluster" else settings.cluster,
                       clusters=None if what == "cluster" else settings.clusters)  # fmt: skip
        others = rest.cluster or rest.z_range or rest.z_norm_max is not None or rest.indices is not None
        allowed = [choose(rest, result)] if others else []
        groups = {
            f"{what}_{number:02d}": combine([select_labels(label, [number], what), *allowed])
            for number in dict.fromkeys(wanted)
        }
    for name, rows in groups.items():
        require_particles(rows, name.replace("_", " "))
    return groups


def left_over(groups: dict[str, NDArray[np.int64]], n: int) -> NDArray[np.int64]:
    """Rows of 0..n-1 in none of the groups."""
    return complement(combine(list(groups.values()), "union"), n)


def _labels(settings: SelectSettings, result: LearnedResult, what: str) -> NDArray[np.int32]:
    if what == "state":
        return result.require_states().label
    if settings.clusters is None:
        raise InputError("cluster needs clusters, the number of clusters to cut the latents into.")
    return cluster_latents(result.require_latents().z, settings.clusters, seed=settings.seed).label

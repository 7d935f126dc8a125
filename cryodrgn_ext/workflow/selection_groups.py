"""Which particles a selection chooses, all together and by the states or clusters that were asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latents import cluster_latents, latent_outliers, principal_components
from cryodrgn_ext.analysis.mixtures import Mixture, fit_mixture, mixture_outliers, outlier_components
from cryodrgn_ext.analysis.selection import (
    combine,
    complement,
    latent_columns,
    select_labels,
    select_ranges,
)
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.options.select import SelectSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.chosen_rows import listed_rows, particles_in
from cryodrgn_ext.results.empty_image_table import read_empty_images
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.learned_result import LearnedResult, read_learned_result
from cryodrgn_ext.results.returned_particles import require_particles
from cryodrgn_ext.results.selections import read_selection_named

IndexArray = NDArray[np.int64]
TOGETHER = "selected"


@dataclass(frozen=True)
class Selection:
    """Rows of the particles of a result that meet all of the conditions.

    Attributes
    ----------
    settings : SelectSettings
    result : LearnedResult
    monitor : Monitor or None
        Hears how a table of particles was matched.
    """

    settings: SelectSettings
    result: LearnedResult
    monitor: Monitor | None = None

    @cached_property
    def rows(self) -> IndexArray:
        """Rows (n,), increasing, of all that is selected.

        Raises
        ------
        InputError
            When no condition is given, or one cannot be met.
        """
        settings, particles = self.settings, self.result.particles
        conditions: list[IndexArray] = []
        if settings.state:
            conditions.append(select_labels(self.result.require_states().label, settings.state, "state"))
        if settings.indices is not None:
            conditions.append(listed_rows(settings.indices, particles, self.monitor))
        if settings.selection:
            conditions.append(self._saved())
        if not settings.junk:
            empty = read_empty_images(Layout(self.result.directory).empty_images)
            conditions.append(np.setdiff1d(np.arange(particles.n), empty))
        conditions += self._latent_conditions()
        conditions += [particles_in(path, particles) for path in settings.intersection]
        added = [particles_in(path, particles, every_one=True) for path in settings.union]
        taken = [particles_in(path, particles) for path in settings.difference]
        if not (conditions or added or taken):
            raise InputError(
                "nothing to select by: give --state, --cluster with --clusters or --mixture, --outliers, --junk no, "
                "--z_range, --z_norm_max, --indices, --selection, --intersection, --union or --difference."
            )
        nothing, everything = np.empty(0, np.int64), np.arange(particles.n)
        chosen = combine(conditions, "intersection") if conditions else nothing if added else everything
        chosen = combine([combine([chosen, *added], "union"), *taken], "difference")
        if settings.invert:
            chosen = complement(chosen, particles.n)
        # RELION offers the particles of every state as an input, and users take rows out of files: a selection from
        # them must not bring others back.
        return combine([chosen, self.result.rows], "intersection")

    def groups(self) -> dict[str, IndexArray]:
        """Rows of every group that is not empty, by name.

        Each wanted state is a group, ``state_02``; without states each wanted cluster, ``cluster_02``; without either,
        and with ``invert`` or ``union``, everything together is the one group ``selected``.
        """
        settings, rows = self.settings, self.rows
        if settings.invert or settings.union or not (settings.state or settings.cluster):
            return {TOGETHER: rows}
        if settings.state:
            what, wanted, label = "state", settings.state, self.result.require_states().label
        else:
            what, wanted, label = "cluster", settings.cluster, self._cluster_label
        groups = {f"{what}_{number:02d}": rows[label[rows] == number] for number in dict.fromkeys(wanted)}
        return {name: found for name, found in groups.items() if len(found)}

    def rest(self) -> IndexArray:
        """Rows of all particles that are not selected."""
        return complement(self.rows, self.result.particles.n)

    def _saved(self) -> IndexArray:
        """Particles of the saved selections that the settings name."""
        result = self.result
        places = tuple(place for place in (result.states_directory, result.directory) if place is not None)
        names = self.settings.selection
        return combine([read_selection_named(name, places, result.particles).rows for name in names], "union")

    @cached_property
    def _mixture(self) -> Mixture:
        assert self.settings.mixture is not None
        return fit_mixture(self.result.require_latents().z, self.settings.mixture, seed=self.settings.seed)

    @cached_property
    def _cluster_label(self) -> NDArray[np.int32]:
        if self.settings.mixture is not None:
            return self._mixture.label
        if self.settings.clusters is None:
            raise InputError(
                "--cluster needs --clusters, the number of clusters to cut the latents into, or --mixture."
            )
        z = self.result.require_latents().z
        return cluster_latents(z, self.settings.clusters, seed=self.settings.seed).label

    def _mixture_conditions(self) -> list[IndexArray]:
        """Conditions that only a mixture can tell."""
        settings = self.settings
        if settings.mixture is None:
            if settings.probability is not None:
                raise InputError("--probability needs --mixture, the number of Gaussians to describe the latents by.")
            return []
        if settings.clusters is not None:
            raise InputError("give --clusters (k-means) or --mixture (Gaussians), not both.")
        if not settings.cluster and settings.probability is None and settings.outliers == "keep":
            raise InputError("--mixture needs --cluster, the Gaussians to keep, --probability or --outliers.")
        if settings.probability is None:
            return []
        return [np.flatnonzero(self._mixture.probability >= settings.probability)]

    def _outliers(self) -> IndexArray:
        """Particles that lie apart from all others."""
        z = self.result.require_latents().z
        if self.settings.mixture is None:
            return latent_outliers(z)
        far = np.isin(self._mixture.label, outlier_components(z, self._mixture))
        return combine([np.flatnonzero(far), mixture_outliers(self._mixture)], "union")

    def _latent_conditions(self) -> list[IndexArray]:
        settings = self.settings
        conditions = self._mixture_conditions()
        if settings.outliers != "keep":
            only = settings.outliers == "only"
            conditions.append(self._outliers() if only else complement(self._outliers(), self.result.particles.n))
        if settings.clusters is not None and not settings.cluster:
            raise InputError("--clusters needs --cluster, the numbers of the clusters to keep.")
        if settings.cluster:
            conditions.append(select_labels(self._cluster_label, settings.cluster, "cluster"))
        if settings.z_range:
            z = self.result.require_latents().z
            columns = latent_columns(z, pc=principal_components(z).projections)
            # A bare number is a latent dimension: 1:-0.5:2 means z1:-0.5:2.
            ranges = [f"z{text}" if text[:1].isdigit() else text for text in settings.z_range]
            conditions.append(select_ranges(columns, ranges))
        if settings.z_norm_max is not None:
            z = self.result.require_latents().z
            conditions.append(np.flatnonzero(np.linalg.norm(z, axis=1) <= settings.z_norm_max))
        return conditions


def read_selection(settings: SelectSettings, monitor: Monitor) -> Selection:
    """Read the result that the settings name, and see that something of it is selected.

    Raises
    ------
    InputError
        When the input is no result of a train or abinit job, a condition cannot be met, or nothing is selected.
    """
    monitor.message(f"Reading {settings.in_parts}")
    selection = Selection(settings, read_learned_result(settings.in_parts, settings.project), monitor)
    require_particles(selection.rows, "the combination of conditions")
    return selection

"""A result as the explorer has it open: particles that are shown, their columns, and selections among them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latents import umap_embedding
from cryodrgn_ext.analysis.view_coverage import view_coverage
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.explorer.columns import EMBEDDING, ColumnTable
from cryodrgn_ext.explorer.recipes import Recipe, follow
from cryodrgn_ext.results.learned_result import LearnedResult, read_learned_result
from cryodrgn_ext.results.selections import (
    SavedSelection,
    read_selection_named,
    selection_names,
    write_selection,
)

IndexArray = NDArray[np.int64]
KEPT_ANSWERS = 32


@dataclass(frozen=True)
class SelectionSummary:
    """What a selection is, at a glance.

    Attributes
    ----------
    n : int
        Number of particles.
    halves : tuple of int
        Of them in half-set 1 and 2; empty where the file says nothing of half-sets.
    views : mapping
        See :class:`cryodrgn_ext.analysis.view_coverage.ViewCoverage`; empty where nothing can be said.
    warnings : tuple of str
        What to know before one goes on with it.
    """

    n: int
    halves: tuple[int, ...]
    views: Mapping[str, float]
    warnings: tuple[str, ...]


class OpenedResult:
    """A result that is open.

    Parameters
    ----------
    given : Path
        Result directory, or a file in it.
    project : Path or None
        To which the paths of images are relative.
    seed : int
        Of UMAP.

    Raises
    ------
    InputError
        When it is no result with latents.
    """

    def __init__(self, given: Path, project: Path | None = None, seed: int = 0) -> None:
        self.given, self.project, self.seed = given, project, seed
        self.result: LearnedResult = read_learned_result(given, project)
        self.result.require_latents()
        self.rows = self.result.rows.astype(np.int64)
        self.columns = ColumnTable(self.result, self.rows)
        #: Long work is done one after the other.
        self.lock = threading.Lock()
        self._answers: dict[str, IndexArray] = {}

    @property
    def home(self) -> Path:
        """Directory that gets what is made here: of the landscape job, where that was given."""
        return self.result.states_directory or self.result.directory

    @property
    def n(self) -> int:
        """Number of particles that are shown."""
        return len(self.rows)

    @cached_property
    def z(self) -> NDArray[np.float32]:
        """(n, q) latents of the shown particles."""
        found: NDArray[np.float32] = self.result.require_latents().z[self.rows]
        return found

    def values(self, key: str) -> NDArray[np.float32]:
        """(n,) values of a column; UMAP is made when it is first asked for."""
        if key in EMBEDDING:
            self.embed()
        return self.columns.values(key)

    def embed(self) -> None:
        """Make the UMAP of the latents, once: of a sample where there are many particles."""
        with self.lock:
            if not any(column.key in EMBEDDING for column in self.columns.columns):
                embedding = umap_embedding(self.z, seed=self.seed)
                self.columns.add_embedding(embedding.index, embedding.xy)

    def saved(self, name: str) -> IndexArray:
        """Positions of a saved selection among the shown particles."""
        found = np.isin(self.rows, self.saved_selection(name).rows)
        return np.flatnonzero(found).astype(np.int64)

    def saved_selection(self, name: str) -> SavedSelection:
        """A saved selection, by name."""
        return read_selection_named(name, self._places, self.result.particles)

    @property
    def _places(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys((self.home, self.result.directory)))

    def selections(self) -> list[dict[str, Any]]:
        """Saved selections for the page: name, number of particles, and recipe; why one cannot be used in its place."""
        found = list[dict[str, Any]]()
        for name in sorted({name for place in self._places for name in selection_names(place)}):
            try:
                one = self.saved_selection(name)
            except InputError as error:  # damaged, or of other particles: all others are there none the less
                found.append({"name": name, "n": 0, "recipe": {}, "written": "", "refused": str(error)})
                continue
            found.append({"name": name, "n": len(one.rows), "recipe": one.recipe, "written": one.written})
        return found

    def choose(self, recipe: Recipe) -> IndexArray:
        """Positions (m,) among the shown particles that a recipe chooses; those of late recipes are kept."""
        key = repr(recipe)
        if key not in self._answers:
            while len(self._answers) >= KEPT_ANSWERS:
                self._answers.pop(next(iter(self._answers)))
            # A saved selection may be saved anew under its name.
            if "'saved'" in key:
                return follow(recipe, self)
            self._answers[key] = follow(recipe, self)
        return self._answers[key]

    def summarise(self, positions: IndexArray) -> SelectionSummary:
        """What a selection of positions (m,) is, with half-sets and views."""
        particles = self.result.particles
        rows = self.rows[positions]
        half = particles.half_set[rows]
        halves = tuple(int(np.count_nonzero(half == number)) for number in (1, 2)) if particles.half_set.any() else ()
        warnings = []
        if halves and len(rows) and not min(halves):
            warnings.append("Half-sets: all of these particles are in one, so that there is no second half-map.")
        views: dict[str, float] = {}
        if particles.has_poses and 0 < len(positions) < self.n:
            chosen = np.zeros(self.n, np.bool_)
            chosen[positions] = True
            angles = particles.euler_deg[self.rows]
            found = view_coverage(angles[:, 0], angles[:, 1], chosen)
            if found is not None:
                views = {"covered": found.covered, "exchanged": found.exchanged, "p_value": found.p_value,
                         "bins": found.bins}  # fmt: skip
                if found.is_different:
                    warnings.append(
                        f"Views: about {100 * found.exchanged:.0f} % of these particles would have to be seen from "
                        "elsewhere to have the views of the others; what was chosen may be views as well as structures."
                    )
        return SelectionSummary(len(rows), halves, views, tuple(warnings))

    def save(self, name: str, recipe: Recipe, replace: bool) -> Path:
        """Keep a selection under a name in the result directory.

        Raises
        ------
        InputError
            When it is empty, or the name cannot be used or is taken.
        """
        positions = self.choose(recipe)
        if not len(positions):
            raise InputError("there is no particle in the selection: choose some, then save it.")
        return write_selection(self.home, name, self.result.particles, self.rows[positions], recipe, replace)

"""What the page may draw of each particle: latents, state, view, defocus, and every column of the user's own file.

A column is a name with a unit until it is asked for; its values are then single-precision numbers of all shown
particles, NaN where there are none or infinite ones. Columns of a few values are categories: numbers of their levels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latent_density import DENSITY, LATENT_ERROR, latent_error, log_density
from cryodrgn_ext.analysis.latents import principal_components
from cryodrgn_ext.analysis.mollweide import mollweide
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.report.plots import label_colors
from cryodrgn_ext.results.empty_image_table import read_empty_images
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.learned_result import LearnedResult
from cryodrgn_ext.results.particle_columns import VIEWS

FloatArray = NDArray[np.float32]
#: Rows of the user's file by which columns of numbers are told from others before anybody asks for one.
SAMPLE = 200
FILE_PREFIX = "file:"
EMBEDDING = ("umap1", "umap2")


@dataclass(frozen=True)
class Column:
    """A column as the page lists it.

    Attributes
    ----------
    key : str
        By which it is asked for, and named in recipes.
    label : str
        With its unit.
    group : str
        Under which it is listed.
    levels : tuple of str
        Names of categories; empty for numbers.
    values : callable
        Returns (n,) numbers, or numbers of levels.
    """

    key: str
    label: str
    group: str
    values: Callable[[], NDArray[np.generic]]
    levels: tuple[str, ...] = ()

    def plain(self) -> dict[str, object]:
        """For the page."""
        colors = label_colors(max(len(self.levels), 1))
        return {
            "key": self.key, "label": self.label, "group": self.group, "levels": list(self.levels),
            "colors": [to_hex(colors(k)) for k in range(len(self.levels))],
        }  # fmt: skip


class ColumnTable:
    """Columns of the shown particles of a result.

    Parameters
    ----------
    result : LearnedResult
    rows : ndarray
        (n,) int64 particles that are shown, increasing.
    """

    def __init__(self, result: LearnedResult, rows: NDArray[np.int64]) -> None:
        self.rows = rows
        self._found: dict[str, FloatArray] = {}
        self._columns: dict[str, Column] = {}
        self._add_latents(result)
        self._add_result(result)
        self._add_particles(result.particles)
        self._add_file(result.particles)

    @property
    def columns(self) -> list[Column]:
        """All that there are."""
        return list(self._columns.values())

    def column(self, key: str) -> Column:
        """The column of this key.

        Raises
        ------
        InputError
            When there is none.
        """
        if key not in self._columns:
            raise InputError(f"there is no column '{key}' in this result.")
        return self._columns[key]

    def values(self, key: str) -> FloatArray:
        """(n,) float32 values, or numbers of levels.

        Raises
        ------
        InputError
            When there is no such column, or the file has text in it.
        """
        if key not in self._found:
            with np.errstate(over="ignore"):
                values = np.ascontiguousarray(self.column(key).values(), np.float32)
            # The page draws no infinite values: a range that is open must not take them unseen.
            self._found[key] = np.where(np.isinf(values), np.float32(np.nan), values)
        return self._found[key]

    def add_embedding(self, index: NDArray[np.integer], xy: FloatArray) -> None:
        """Add a UMAP (m, 2) of some of the shown particles, at positions (m,) among them."""
        for k, key in enumerate(EMBEDDING):
            values = np.full(len(self.rows), np.nan, np.float32)
            values[index] = xy[:, k]
            self._found[key] = values
            self._columns[key] = Column(key, f"UMAP {k + 1}", "latents", lambda values=values: values)  # type: ignore[misc]

    def add(self, column: Column) -> None:
        """List a column, in the place of one of the same key."""
        self._found.pop(column.key, None)
        self._columns[column.key] = column

    def _add_latents(self, result: LearnedResult) -> None:
        latents, rows = result.require_latents(), self.rows
        z, q = latents.z, latents.z.shape[1]
        # Over all particles, as select --z_range counts them.
        components = principal_components(z)
        for k in range(q if q > 1 else 0):
            share = 100 * components.explained_variance_ratio[k]
            self.add(Column(f"pc{k + 1}", f"PC {k + 1} ({share:.0f} %)", "latents",
                             lambda k=k: components.projections[rows, k]))  # type: ignore[misc]  # fmt: skip
        for k in range(q):
            self.add(Column(f"z{k + 1}", f"z {k + 1}", "latents", lambda k=k: z[rows, k]))  # type: ignore[misc]
        self.add(Column("latent_length", "distance from the mean latent", "latents",
                         lambda: np.linalg.norm(z[rows] - components.mean, axis=1)))  # fmt: skip
        self.add(Column("latent_density", DENSITY, "latents", lambda: log_density(z[rows])))
        covariance = latents.z_cov
        if covariance is not None:
            self.add(Column("latent_error", LATENT_ERROR, "latents", lambda: latent_error(covariance[rows])))

    def _add_result(self, result: LearnedResult) -> None:
        states = result.states
        if states is not None:
            names = tuple(f"state {number:02d}" for number in range(states.n_states))
            self.add(Column("state", "state", "result", lambda: _coded(states.label[self.rows]), names))

        empty = read_empty_images(Layout(result.directory).empty_images)
        if len(empty):
            shows = np.isin(self.rows, empty)
            self.add(Column("empty", "what the image shows", "result", lambda: shows,
                             ("a particle", "probably nothing")))  # fmt: skip

    def _add_particles(self, particles: ParticleSet) -> None:
        rows, ctf = self.rows, particles.ctf
        if particles.half_set.any():
            levels = ("half-set 1", "half-set 2")
            self.add(Column("half_set", "half-set", "particles", lambda: _coded(particles.half_set[rows] - 1), levels))
        defocus_u, defocus_v = ctf.defocus_u_A, ctf.defocus_v_A
        self.add(Column("defocus", "defocus (µm)", "particles", lambda: (defocus_u + defocus_v)[rows] / 2e4))
        self.add(Column("astigmatism", "astigmatism (µm)", "particles",
                         lambda: np.abs(defocus_u - defocus_v)[rows] / 1e4))  # fmt: skip
        if particles.has_poses:
            view = particles.euler_deg[rows]
            for k, axis in enumerate("xy"):
                self.add(Column(f"view_{axis}", VIEWS[k], "particles",
                                 lambda k=k: mollweide(view[:, 0], view[:, 1])[:, k]))  # type: ignore[misc]  # fmt: skip
            self.add(Column("view_tilt", "view, angle to the axis (°)", "particles", lambda: view[:, 1]))
            self.add(Column("shift", "shift from the centre (Å)", "particles",
                             lambda: np.linalg.norm(particles.shift_A[rows], axis=1)))  # fmt: skip
        if len(particles.optics) > 1:
            names = tuple(group.name for group in particles.optics)
            self.add(Column("optics", "optics group", "particles", lambda: particles.optics_index[rows], names))

    def _add_file(self, particles: ParticleSet) -> None:
        source, row = particles.source, particles.row_id[self.rows]
        if source.names_micrographs:
            self.add(Column("micrograph", "micrograph, by number", "particles", lambda: _micrograph(particles, row)))
        some = row[np.unique(np.linspace(0, len(row) - 1, min(SAMPLE, len(row))).astype(int))]
        for name, values in source.numeric_columns(some):
            if np.isfinite(values).any():
                self.add(Column(FILE_PREFIX + name, name, "your file",
                                 lambda name=name: source.numeric_column(name, row)))  # type: ignore[misc]  # fmt: skip


def _micrograph(particles: ParticleSet, row: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers from 1 of the micrographs of rows; found when asked for, as it takes seconds for a million."""
    found = particles.source.micrographs()
    if found is None:
        raise InputError(f"{particles.path} names no micrographs.")
    return found[1][row] + 1


def _coded(number: NDArray[np.integer]) -> NDArray[np.float32]:
    """Numbers of levels; NaN for those below 0, which mean none."""
    values = number.astype(np.float32)
    values[number < 0] = np.nan
    return values

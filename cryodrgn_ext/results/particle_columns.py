"""The numbers that the user's own file has for each particle, for the plots of a report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.shown_particles import IndexArray, ShownParticles
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cs import CsTable
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.star_rows import RowText
from cryodrgn_ext.metadata.star_table import StarTable

MOST_COLUMNS = 48
MOST_PARTS = 3  # of a field with several values a row; longer ones are not for plots


def shown_particles(particles: ParticleSet, index: IndexArray) -> ShownParticles:
    """Look up some particles: their rows, images, and every column of numbers that differ.

    Parameters
    ----------
    particles : ParticleSet
    index : ndarray
        (n,) positions in ``particles``, increasing.

    Returns
    -------
    ShownParticles
        With columns named as in the user's file, no more than 48.
    """
    row = particles.row_id[index]
    source = particles.source
    found = _of_fields(source, row) if isinstance(source, CsTable) else _of_star(particles.table, row)
    columns: dict[str, NDArray[np.float64]] = {}
    for name, values in found:
        known = values[np.isfinite(values)]
        if len(known) and known.min() < known.max():
            columns[name] = values
        if len(columns) == MOST_COLUMNS:
            break
    return ShownParticles(
        index, row + 1, columns, particles.stack_names, particles.stack_id[index].astype(np.int64),
        particles.stack_index[index] + 1,
    )  # fmt: skip


def _of_star(table: StarTable, row: IndexArray) -> Iterator[tuple[str, NDArray[np.float64]]]:
    rows = table.rows
    some = replace(
        table,
        rows=RowText(
            rows.text, rows.start[row], rows.stop[row], rows.token_start[row], rows.token_length[row], rows.quoted
        ),
    )
    for name in table.columns:
        try:
            yield name, some.floats(name)
        except InputError:
            continue  # text


def _of_fields(table: CsTable, row: IndexArray) -> Iterator[tuple[str, NDArray[np.float64]]]:
    for name, values in table.columns.items():
        if values.dtype.kind not in "fiu" or name == "uid" or values.ndim > 2:
            continue
        if values.ndim == 1:
            yield name, values[row].astype(np.float64)
        elif values.shape[1] <= MOST_PARTS:
            for part in range(values.shape[1]):
                yield f"{name} {part + 1}", values[row, part].astype(np.float64)

"""Which particles of a learned result a job works on: all, those of a state, or those that the user lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.selection import read_index_file
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.particles import ParticleSet, read_particles
from cryodrgn_ext.metadata.row_matching import match_rows, shared_rows
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.learned_result import TABLES, LearnedResult
from cryodrgn_ext.results.selections import SUFFIX, read_selection_file, shared_with_selection


def chosen_rows(result: LearnedResult, indices: Path | None, monitor: Monitor | None = None) -> NDArray[np.int64]:
    """Rows (n,) int64, increasing, of the input particles.

    Those that were given as the input (a state, what a file still lists), and of these only those that ``indices``
    lists.

    Raises
    ------
    InputError
        When the file names other particles, or none are left.
    """
    rows = result.rows
    if monitor is not None and result.listed is not None:
        monitor.message(removed_rows(result))
    if monitor is not None and len(result.unusable):
        monitor.message(
            f"Note: {len(result.unusable)} images that cannot be used (see image_remarks.star) are left out."
        )
    if indices is not None:
        rows = np.intersect1d(rows, listed_rows(indices, result.particles, monitor))
        if len(rows) == 0:
            raise InputError(f"{indices} names none of the particles that are looked at.")
    return rows.astype(np.int64)


def removed_rows(result: LearnedResult) -> str:
    """Sentence for a result of whose file rows were taken out."""
    return (
        f"Note: {len(result.rows)} of {result.particles.n} particles are looked at: the given file no longer lists the "
        "others (give the directory of the job for all)."
    )


def listed_rows(path: Path, particles: ParticleSet, monitor: Monitor | None = None) -> NDArray[np.int64]:
    """Rows of the particles that a file lists: numbers from 0, a saved selection, or a table matched by identity.

    Raises
    ------
    InputError
        When particles are not there, or copies of one image cannot be told apart.
    """
    if path.suffix == SUFFIX:
        return read_selection_file(path, particles).rows
    if path.suffix.lower() not in TABLES:
        return read_index_file(path, particles.n)
    listed = read_particles(path, require_poses=False)
    match = match_rows(listed, particles, as_list=True)
    if monitor is not None:
        monitor.message(f"Matched {listed.n} particles of {path} with {particles.path} by {match.joined_by}.")
        for note in match.notes:
            monitor.warn(f"{note}.")
    return np.unique(match.rows)


def particles_in(path: Path, particles: ParticleSet, every_one: bool = False) -> NDArray[np.int64]:
    """Rows of the particles that a selection holds, matched by identity: of replicate runs no order is the same.

    Parameters
    ----------
    path : Path
        A table of particles, a folder with one, a selection that explore saved (.npz), or rows of these particles
        (.txt, .npy, .pkl).
    particles : ParticleSet
    every_one : bool
        Whether a particle that is not among ``particles`` is an error; else it does not matter.

    Raises
    ------
    InputError
        When the file cannot be read, or shares no particle with ``particles``.
    """
    if path.is_dir() and Layout(path).particles.is_file():
        path = Layout(path).particles
    if path.suffix == SUFFIX:
        return read_selection_file(path, particles).rows if every_one else shared_with_selection(path, particles)
    if path.suffix.lower() not in TABLES and not path.is_dir():
        return read_index_file(path, particles.n)
    if every_one:
        return listed_rows(path, particles)
    rows = shared_rows(read_particles(path, require_poses=False), particles).rows
    if len(rows) == 0:
        raise InputError(f"{path} has none of the particles of {particles.path}: it is not of a run on the same ones.")
    return rows

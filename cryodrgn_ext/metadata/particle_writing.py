"""Particles written as the file that they came from, or as the other suite's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.changed_optics import optics_edit, optics_fields, particle_optics_columns
from cryodrgn_ext.metadata.column_table import columns_of_changed_poses
from cryodrgn_ext.metadata.cryosparc_particles import particles_from_cs
from cryodrgn_ext.metadata.cs import AnyArray, write_cs
from cryodrgn_ext.metadata.particle_ctf import Float64Array
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.star import TableEdit, write_star
from cryodrgn_ext.metadata.star_table import Values, check_label, format_values
from cryodrgn_ext.metadata.to_cryosparc import cs_from_star, neutral_statistics, pose_fields
from cryodrgn_ext.metadata.to_relion import star_from_cs


def write_particles_star(
    particles: ParticleSet,
    path: str | Path,
    extra_columns: Mapping[str, Values] | None = None,
    *,
    keep_original_poses: bool = False,
    dropped_columns: Sequence[str] = (),
) -> None:
    """Write these particles as the STAR file they came from, in the order of this set.

    Every row, column, block and comment is written with the characters that were read. Poses are written only
    after ``with_poses``: rlnAngleRot, Tilt, Psi and the origins in the file's own convention (pixels for
    RELION 3.0, Å later), with six decimals; other columns that belong to the old poses are renewed or left out
    (:mod:`cryodrgn_ext.metadata.column_table`). Particles of a .cs are written as RELION 3.1 has them
    (:func:`cryodrgn_ext.metadata.to_relion.star_from_cs`).

    Parameters
    ----------
    path : path-like
        The new file; its directory must exist.
    extra_columns : mapping of str to (N,) values, optional
        Columns to append, such as ``cdxLatent1``; a column that the file has is replaced. Floats are written with
        six significant digits. RELION from 3.1 on carries columns along that it does not know; RELION 3.0 stops
        at them.
    keep_original_poses : bool
        Write the original poses also after ``with_poses``.
    dropped_columns : sequence of str
        Columns of the file to leave out, unless ``extra_columns`` replaces them.

    Raises
    ------
    InputError
        For columns of the wrong length or with NaN, bad names, a set without particles (no job of RELION takes
        an empty table), or when the file cannot be written.
    """
    if particles.n == 0:
        raise InputError(f"{path}: there are no particles to write")
    if particles.source.format == "cs":
        if particles.poses_changed and keep_original_poses:
            original = particles_from_cs(particles.cs, particles.project_dir, require_poses=False)
            particles = original.subset(particles.row_id)
        write_star(path, star_from_cs(particles, extra_columns or {}).star)
        return
    columns: dict[str, list[bytes]] = {}
    if particles.poses_changed and not keep_original_poses:
        columns |= {label: format_values(values, "%.6f", label) for label, values in _pose_columns(particles).items()}
        dropped_columns = (*dropped_columns, *columns_of_changed_poses(particles.table.columns).dropped)
    if particles.optics_changed:
        columns |= particle_optics_columns(particles)
    for label, values in (extra_columns or {}).items():
        check_label(label)
        columns[label] = format_values(values, "%.6g", label)
        if len(columns[label]) != particles.n:
            raise InputError(f"the column {label} has {len(columns[label])} values for {particles.n} particles")
    unchanged = particles.n == particles.table.n_rows and bool(np.all(particles.row_id == np.arange(particles.n)))
    dropped = tuple(label for label in dropped_columns if label in particles.table and label not in columns)
    changed = not unchanged or columns or dropped
    edits = {particles.table.name: TableEdit(particles.row_id, columns, dropped)} if changed else {}
    if particles.optics_changed and "optics" in particles.star.blocks:
        edits["optics"] = optics_edit(particles)
    write_star(path, particles.star, edits)


def write_particles_cs(
    particles: ParticleSet,
    path: str | Path,
    extra_columns: Mapping[str, AnyArray] | None = None,
    *,
    keep_original_poses: bool = False,
) -> tuple[str, ...]:
    """Write these particles as a .cs file, in the order of this set.

    Particles of a .cs keep every field, type and value; alignments3D/pose, shift (in pixels of
    alignments3D/psize_A) and psize_A are written anew only after ``with_poses``, and what else is known of the old
    alignment (error, cross_cor, ...) becomes neutral. Particles of a STAR file are
    converted (:func:`cryodrgn_ext.metadata.to_cryosparc.cs_from_star`).

    Parameters
    ----------
    path : path-like
        The new file; its directory must exist.
    extra_columns : mapping of str to (N, ...) values, optional
        Fields to replace or to append.
    keep_original_poses : bool
        Write the original poses also after ``with_poses``.

    Returns
    -------
    tuple of str
        The fields that the file has, in order.

    Raises
    ------
    InputError
        For columns of the wrong length, a set without particles, or when the file cannot be written.
    """
    if particles.n == 0:
        raise InputError(f"{path}: there are no particles to write")
    columns = dict(extra_columns or {})
    if particles.source.format == "star":
        return write_cs(path, cs_from_star(particles).table, None, columns)
    if particles.poses_changed and not keep_original_poses:
        columns = pose_fields(particles) | neutral_statistics(particles) | columns
    if particles.optics_changed:
        columns = optics_fields(particles) | columns
    return write_cs(path, particles.cs, particles.row_id, columns)


def _pose_columns(particles: ParticleSet) -> dict[str, Float64Array]:
    columns = dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), particles.euler_deg.T, strict=True))
    origin_A = 0.0 - particles.shift_A  # a difference, so that no shift gives 0 and not -0
    if "rlnHelicalTubeID" in particles.table:
        priors = {f"{label}Prior": values for label, values in columns.items()}
        columns |= {label: values for label, values in priors.items() if label in particles.table}
    # Of two pairs of columns both are written: that in pixels goes before the other without an optics table.
    table, old = particles.table, particles.version == "3.0"
    in_pixels = "rlnOriginX" in table or (old and "rlnOriginXAngst" not in table)
    if in_pixels:
        origin_px = origin_A / particles.pixel_size_A[:, None]
        columns |= {"rlnOriginX": origin_px[:, 0], "rlnOriginY": origin_px[:, 1]}
    if "rlnOriginXAngst" in table or not old:
        columns |= {"rlnOriginXAngst": origin_A[:, 0], "rlnOriginYAngst": origin_A[:, 1]}
    return columns

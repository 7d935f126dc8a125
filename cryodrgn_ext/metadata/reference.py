"""The original rows of converted particles, with what has changed since written over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.metadata.changed_optics import differing_optics_columns, resampled_notes, take_optics
from cryodrgn_ext.metadata.column_table import columns_dropped, columns_named
from cryodrgn_ext.metadata.cs import AnyArray
from cryodrgn_ext.metadata.moved_boxes import MovedBoxes, moved_boxes
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.particle_source import Rows
from cryodrgn_ext.metadata.row_matching import match_rows
from cryodrgn_ext.metadata.to_cryosparc import fields_of_particles
from cryodrgn_ext.metadata.to_relion import columns_of_particles

# Below these two files agree: float32 in a .cs, six decimals in a STAR file.
ROTATION_TOLERANCE_RAD = 1e-5
SHIFT_TOLERANCE_A = 1e-3
DEFOCUS_TOLERANCE_A = 1e-2
ANGLE_TOLERANCE_RAD = 1e-5
_RELATIVE_TOLERANCE = 1e-5
# Columns that are compared as what they mean: images and positions when rows are joined, others when they are taken.
_COMPARED_ELSEWHERE = frozenset({
    "rlnImageName", "rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnAngleRot", "rlnAngleTilt",
    "rlnAnglePsi", "rlnOriginX", "rlnOriginY", "rlnOriginXAngst", "rlnOriginYAngst", "rlnDefocusU", "rlnDefocusV",
    "rlnDefocusAngle", "rlnPhaseShift", "rlnRandomSubset", "rlnClassNumber", "rlnOpticsGroup", "rlnVoltage",
    "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnBeamTiltX", "rlnBeamTiltY", "rlnMagnification",
    "rlnDetectorPixelSize",
    "uid", "ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad", "ctf/phase_shift_rad", "ctf/accel_kv", "ctf/cs_mm",
    "ctf/amp_contrast", "ctf/tilt_A", "ctf/anisomag", "ctf/exp_group_id",
})  # fmt: skip
# What programs write where they know nothing.
_NEUTRAL = {"rlnCtfBfactor": 0.0, "rlnCtfScalefactor": 1.0, "ctf/bfactor": 0.0, "ctf/scale": 1.0}
_SLOTS_COMPARED_ELSEWHERE = ("blob/", "location/", "alignments3D/")


# What columns may depend on, by how it is called when it was taken over.
_CHANGES = {"defocus": "CTF", "pixel": "pixel size"}


@dataclass(frozen=True)
class Restored:
    """Particles with the columns of their reference.

    Attributes
    ----------
    particles : ParticleSet
        Rows of the reference in the order of the input, with the input's poses and optics where these differ.
    columns : dict of str to array
        Further columns of the reference to write anew, in its own terms.
    joined_by : str
        By what rows were matched.
    updated : tuple of str
        What was taken from the input because it differs.
    kept : tuple of str
        Columns whose values differ in the input and stay as the reference has them.
    not_taken : tuple of str
        Columns that only the input has.
    dropped : tuple of str
        Columns of the reference to leave out, because they belong to the old defocus.
    named : tuple of str
        Columns that stay although they were measured with the old pixel size or defocus.
    notes : tuple of str
        What a user should know about the join, one sentence each.
    """

    particles: ParticleSet
    columns: dict[str, AnyArray]
    joined_by: str
    updated: tuple[str, ...]
    kept: tuple[str, ...] = ()
    not_taken: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def sentences(self, path: Path) -> list[str]:
        """Say what was taken from the input, the file ``path``, and what of it was not."""
        taken = f"but for {', '.join(self.updated)}, which differ" if self.updated else "nothing has changed"
        if not self.updated and (self.kept or self.not_taken):
            taken = "nothing is taken over"
        return [f"All columns are those of the reference ({taken})."] + [
            f"{what}: {', '.join(names)}"
            for what, names in (
                ("Left out, as they belong to the old defocus", self.dropped),
                ("Kept, although measured with the old values", self.named),
                (f"These differ in {path} and stay as the reference has them", self.kept),
                (f"Only {path} has these, and they are not taken over", self.not_taken),
            )
            if names
        ]


def restore(particles: ParticleSet, reference: ParticleSet) -> Restored:
    """Find the rows of ``particles`` in ``reference`` and carry over what has changed.

    Every column is the reference's, but for poses, defocus, phase shift, half-sets, classes and optics that differ.
    What else differs stays as it is and is listed.

    Raises
    ------
    InputError
        See :func:`cryodrgn_ext.metadata.row_matching.match_rows`.
    """
    match = match_rows(particles, reference)
    chosen = reference.subset(match.rows)
    kept, not_taken = (
        (*columns, *of_optics)
        for columns, of_optics in zip(
            _differing_columns(particles, chosen), differing_optics_columns(particles, chosen), strict=True
        )
    )
    updated = []
    moved = moved_boxes(particles, chosen) if particles.has_poses else MovedBoxes()
    if moved.shift_A is not None:
        particles = particles.with_poses(particles.rotation, particles.shift_A + moved.shift_A)
    if particles.has_poses and moved.poses_hold and _poses_differ(particles, chosen):
        chosen = chosen.with_poses(particles.rotation, particles.shift_A)
        updated.append("poses")
    columns: dict[str, AnyArray] = {}
    ctf_changed = _ctf_changes(particles, chosen)
    if ctf_changed.any():
        columns |= chosen.source.ctf_columns(particles.ctf, chosen.row_id, ctf_changed)
        updated.append("CTF")
    if particles.half_set.any() and not np.array_equal(particles.half_set, chosen.half_set):
        columns |= chosen.source.half_set_columns(particles.half_set)
        updated.append("half-sets")
    mine, theirs = _classes(particles), _classes(chosen)
    if mine is not None and not np.array_equal(mine, np.zeros_like(mine) if theirs is None else theirs):
        columns |= chosen.source.class_columns(mine)
        updated.append("classes")
    pixel_size_A, resampled = chosen.pixel_size_A, resampled_notes(chosen, particles)
    chosen, changed_optics = take_optics(chosen, particles)
    updated += changed_optics
    if chosen.has_poses and not chosen.poses_changed and not np.array_equal(pixel_size_A, chosen.pixel_size_A):
        chosen = chosen.with_poses(chosen.rotation, chosen.shift_A)  # origins may count pixels
    changes = [change for change, what in _CHANGES.items() if what in updated]
    labels = chosen.source.column_names() if chosen.source.format == "star" else ()
    named = dict.fromkeys(label for change in changes for label in columns_named(labels, change))
    return Restored(
        particles=chosen,
        columns=columns,
        joined_by=match.joined_by,
        updated=tuple(updated),
        kept=kept,
        not_taken=not_taken,
        dropped=columns_dropped(labels, "defocus") if "defocus" in changes else (),
        named=tuple(label for label in named if label not in columns),
        notes=(*match.notes, *moved.notes, *resampled),
    )


def _poses_differ(particles: ParticleSet, chosen: ParticleSet) -> bool:
    if not chosen.has_poses:
        return True
    return bool(
        np.abs(particles.rotation - chosen.rotation).max() > ROTATION_TOLERANCE_RAD
        or np.abs(particles.shift_A - chosen.shift_A).max() > SHIFT_TOLERANCE_A
    )


def _ctf_changes(particles: ParticleSet, chosen: ParticleSet) -> npt.NDArray[np.bool_]:
    """Return (N,) whether defocus or phase shift differ."""
    mine, theirs = particles.ctf, chosen.ctf
    difference = np.remainder(mine.defocus_angle_rad - theirs.defocus_angle_rad + np.pi / 2, np.pi) - np.pi / 2
    changed: npt.NDArray[np.bool_] = (
        (np.abs(mine.defocus_u_A - theirs.defocus_u_A) > DEFOCUS_TOLERANCE_A)
        | (np.abs(mine.defocus_v_A - theirs.defocus_v_A) > DEFOCUS_TOLERANCE_A)
        | (np.abs(difference) > ANGLE_TOLERANCE_RAD)
        | (np.abs(mine.phase_shift_rad - theirs.phase_shift_rad) > ANGLE_TOLERANCE_RAD)
    )
    return changed


def _classes(particles: ParticleSet) -> Rows | None:
    classes = particles.source.classes()
    return None if classes is None else classes[particles.row_id]


def _differing_columns(particles: ParticleSet, chosen: ParticleSet) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return shared columns that differ, and those that only ``particles`` have, in the terms of ``chosen``."""
    known = set(chosen.source.column_names())
    kept, not_taken = [], []
    for name, mine in _columns_in_terms_of(particles, chosen):
        if name in _COMPARED_ELSEWHERE or name.startswith(("cdx", *_SLOTS_COMPARED_ELSEWHERE)):
            continue
        if name not in known:
            not_taken.append(name)
        elif not _equal(mine(), chosen.source.column(name, chosen.row_id)):
            kept.append(name)
    return tuple(kept), tuple(not_taken)


def _columns_in_terms_of(particles: ParticleSet, chosen: ParticleSet) -> Iterator[tuple[str, Callable[[], AnyArray]]]:
    """Yield name and content (N, ...) of the columns of ``particles``, as the format of ``chosen`` has them."""
    source, rows = particles.source, particles.row_id
    if source.format == chosen.source.format:
        for name in source.column_names():
            yield name, partial(source.column, name, rows)
        return
    convert = columns_of_particles if chosen.source.format == "star" else fields_of_particles
    known = set(chosen.source.column_names())
    for name, values in convert(particles).items():
        if name in known or np.any(values != _NEUTRAL.get(name, np.nan)):
            yield name, partial(np.asarray, values)


def _equal(mine: AnyArray, theirs: AnyArray) -> bool:
    if mine.shape != theirs.shape:
        return False
    if "S" in (mine.dtype.kind, theirs.dtype.kind):
        if np.array_equal(mine, theirs):
            return True
        try:
            mine, theirs = mine.astype(np.float64), theirs.astype(np.float64)
        except ValueError:
            return False
    a, b = mine.astype(np.float64), theirs.astype(np.float64)
    same = np.abs(a - b) <= _RELATIVE_TOLERANCE * np.maximum(np.abs(b), 0.1)
    return bool(np.all(same | (np.isnan(a) & np.isnan(b))))

"""The original rows of converted particles: found by uid or by image, with what has changed since written over them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cs import AnyArray
from cryodrgn_ext.metadata.image_names import ImageReferences, UInt64Array, image_hashes, stack_file, unique_ids
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.particle_source import Rows

# Below these two files agree: float32 in a .cs, six decimals in a STAR file.
ROTATION_TOLERANCE_RAD = 1e-5
SHIFT_TOLERANCE_A = 1e-3
DEFOCUS_TOLERANCE_A = 1e-2
ANGLE_TOLERANCE_RAD = 1e-5
# CryoSPARC imports stacks under their uid: 003806243878409217281_stack.mrcs
_IMPORT_PREFIX = re.compile(r"^\d{18,21}_")


@dataclass(frozen=True)
class Restored:
    """Particles with the columns of their reference.

    Attributes
    ----------
    particles : ParticleSet
        Rows of the reference in the order of the input, with the input's poses where these differ.
    columns : dict of str to array
        Further columns of the reference to write anew, in its own terms.
    joined_by : str
        By what rows were matched.
    updated : tuple of str
        What was taken from the input because it differs.
    """

    particles: ParticleSet
    columns: dict[str, AnyArray]
    joined_by: str
    updated: tuple[str, ...]


def restore(particles: ParticleSet, reference: ParticleSet) -> Restored:
    """Find the rows of ``particles`` in ``reference`` and carry over what has changed.

    Every column is the reference's, but for poses, defocus, phase shift, half-sets and classes that differ.

    Raises
    ------
    InputError
        Naming the first particle that the reference lacks.
    """
    rows, joined_by = join_rows(particles, reference)
    chosen = reference.subset(rows)
    updated = []
    if particles.has_poses and _poses_differ(particles, chosen):
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
    if mine is not None and theirs is not None and not np.array_equal(mine, theirs):
        columns |= chosen.source.class_columns(mine)
        updated.append("classes")
    return Restored(chosen, columns, joined_by, tuple(updated))


def join_rows(particles: ParticleSet, reference: ParticleSet) -> tuple[Rows, str]:
    """Return for every particle its row (N,) in ``reference``, and by what they were matched.

    Tried in this order: uid (where both files have CryoSPARC's), path of the stack and index, name of the stack without
    folders and index, the same without the number that CryoSPARC puts in front when it imports. Images that occur
    several times are matched in order of occurrence.

    Raises
    ------
    InputError
        When a particle is not in the reference.
    """
    attempts: list[tuple[str, Callable[[ParticleSet], UInt64Array]]] = []
    if particles.source.cryosparc_uids() and reference.source.cryosparc_uids():
        attempts.append(("uid", lambda one: one.uid))
    attempts += [
        ("image path and index", lambda one: unique_ids(one.image_hash)),
        ("image file name and index", lambda one: _name_keys(one, os.path.basename)),
        ("imported image file name and index", lambda one: _name_keys(one, _imported_name)),
    ]
    fewest: npt.NDArray[np.intp] | None = None
    for what, keys in attempts:
        if "name" in what and not (_names_are_unique(particles) and _names_are_unique(reference)):
            continue
        rows, missing = _match(keys(particles), keys(reference))
        if not len(missing):
            return rows, what
        fewest = missing if fewest is None or len(missing) < len(fewest) else fewest
    lost = np.arange(particles.n) if fewest is None else fewest
    raise InputError(
        f"{reference.path}: {len(lost)} of {particles.n} particles are not in this reference, the first being "
        f"{particles.describe_row(int(lost[0]))}"
    )


def _match(wanted: UInt64Array, available: UInt64Array) -> tuple[Rows, npt.NDArray[np.intp]]:
    order = np.argsort(available)
    place = np.minimum(np.searchsorted(available, wanted, sorter=order), len(available) - 1)
    found = order[place]
    return found, np.flatnonzero(available[found] != wanted)


def _imported_name(path: str) -> str:
    return _IMPORT_PREFIX.sub("", os.path.basename(path))


def _names_are_unique(particles: ParticleSet) -> bool:
    files = {os.path.normpath(stack_file(name)) for name in particles.stack_names}
    return len({_imported_name(name) for name in files}) == len(files)


def _name_keys(particles: ParticleSet, shortened: Callable[[str], str]) -> UInt64Array:
    names = tuple(shortened(stack_file(name)) for name in particles.stack_names)
    return unique_ids(image_hashes(ImageReferences(names, particles.stack_id, particles.stack_index)))


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
    turn = np.remainder(mine.defocus_angle_rad - theirs.defocus_angle_rad + np.pi / 2, np.pi) - np.pi / 2
    changed: npt.NDArray[np.bool_] = (
        (np.abs(mine.defocus_u_A - theirs.defocus_u_A) > DEFOCUS_TOLERANCE_A)
        | (np.abs(mine.defocus_v_A - theirs.defocus_v_A) > DEFOCUS_TOLERANCE_A)
        | (np.abs(turn) > ANGLE_TOLERANCE_RAD)
        | (np.abs(mine.phase_shift_rad - theirs.phase_shift_rad) > ANGLE_TOLERANCE_RAD)
    )
    return changed


def _classes(particles: ParticleSet) -> Rows | None:
    classes = particles.source.classes()
    return None if classes is None else classes[particles.row_id]

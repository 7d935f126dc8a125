"""Which row of one file is which row of another: found by what tells, held against what else the files say.

Rows are never joined by their order. Identifiers come first; names of images only where positions on micrographs agree
with them; copies of one image (symmetry expansion, sub-particles) are told apart by their own identifiers, by the text
of their rows, or by their poses. Where two candidates remain, nothing is guessed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.image_files import plain_name
from cryodrgn_ext.metadata.image_names import (
    ImageReferences,
    UInt64Array,
    image_hashes,
    mixed,
    stack_file,
)
from cryodrgn_ext.metadata.micrograph_positions import (
    SAME_POSITION_PX,
    Positions,
    compare_positions,
    imported_name,
)
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.particle_source import ParticleSource, Rows
from cryodrgn_ext.metadata.row_copies import tell_copies
from cryodrgn_ext.metadata.row_evidence import contradiction, unrelated_notes

#: Particles that lie nearer than this fraction of the box are the same: others that touch are half a box apart.
_ALIKE = 0.1
_ORIGINAL = "path and index of the original image"


@dataclass(frozen=True)
class RowMatch:
    """Rows of N particles in another file.

    Attributes
    ----------
    rows : (N,) int64
        Positions in the reference.
    joined_by : str
        By what they were found.
    notes : tuple of str
        What a user should know about it, one sentence each.
    """

    rows: Rows
    joined_by: str
    notes: tuple[str, ...] = ()


def match_rows(particles: ParticleSet, reference: ParticleSet, *, as_list: bool = False) -> RowMatch:
    """Return for every particle its row in ``reference``, each row once.

    Tried in this order: CryoSPARC's uid; the uid of the source and the number of the copy (of symmetry expansion); path
    of the stack and index; those of the image that an image was made from (rlnImageOriginalName); name of the stack
    without folders and index; the same without the number that CryoSPARC puts in front when it imports; micrograph and
    position.

    Parameters
    ----------
    particles, reference : ParticleSet
    as_list : bool
        Only which rows of the reference are meant matters, not which particle is which of them.

    Raises
    ------
    InputError
        When particles are not in the reference, when names agree but positions on micrographs do not, or when several
        rows may be meant; the message names rows.
    """
    if reference.n == 0:
        raise InputError(f"{reference.path}: has no particles to look {particles.n} of {particles.path} up in")
    refusals: list[str] = []
    fewest: npt.NDArray[np.intp] | None = None
    for what, keys in _attempts(particles, reference):
        wanted, available = keys(particles), keys(reference)
        lost = np.flatnonzero(~np.isin(wanted, available))
        if len(lost):
            fewest = lost if fewest is None or len(lost) < len(fewest) else fewest
            continue
        found, criterion = tell_copies(particles, reference, wanted, available, as_list=as_list)
        decisive = "uid" in what
        refusal, notes = _held_against_evidence(particles, reference, found, what, decisive)
        if refusal is None and what == _ORIGINAL:
            notes += (
                f"the images of {particles.path} are others than those of {reference.path}, made from the same: where "
                "they were recentred, their shifts do not hold in the others",
            )
        if refusal is None:
            return RowMatch(found, what if criterion is None else f"{what}, copies of one image by {criterion}", notes)
        refusals.append(refusal)
    by_position, missing = _by_position(particles, reference, as_list)
    if by_position is not None:
        return by_position
    if refusals:
        tail = (
            f"; by position {missing} of {particles.n} are not in the reference either" if missing is not None else ""
        )
        raise InputError(f"{refusals[0]}{tail}. Give the file of the very particles that were worked on.")
    row = 0 if fewest is None else int(fewest[0])
    n = particles.n if fewest is None else len(fewest)
    raise InputError(
        f"{reference.path}: {n} of {particles.n} particles are not in this file, the first being "
        f"{particles.describe_row(row)}"
    )


def shared_rows(particles: ParticleSet, reference: ParticleSet) -> RowMatch:
    """Return the rows (n,) of ``reference`` that are among ``particles``, increasing; others do not matter.

    Found as by :func:`match_rows`, by what finds most.

    Raises
    ------
    InputError
        When names agree but positions on micrographs do not, or several rows may be meant.
    """
    best = _most_found(particles, reference)
    if not len(best):
        return RowMatch(best, "nothing")
    match = match_rows(particles.subset(best), reference, as_list=True)
    return RowMatch(np.unique(match.rows), match.joined_by, match.notes)


def shared_pairs(particles: ParticleSet, reference: ParticleSet) -> tuple[Rows, RowMatch]:
    """Return which of N particles (n,) are in ``reference``, and their rows there (n,); others do not matter.

    Found as by :func:`match_rows`, by what finds most; errors as :func:`shared_rows`.
    """
    best = _most_found(particles, reference)
    if not len(best):
        return best, RowMatch(best, "nothing")
    return best, match_rows(particles.subset(best), reference)


def _most_found(particles: ParticleSet, reference: ParticleSet) -> Rows:
    """Return the particles whose keys are in the reference, by the keys that find most of them."""
    best = np.empty(0, np.int64)
    for _, keys in _attempts(particles, reference):
        there = np.flatnonzero(np.isin(keys(particles), keys(reference)))
        if len(there) > len(best):
            best = there
    return best


Keys = Callable[[ParticleSet], UInt64Array]


def _attempts(particles: ParticleSet, reference: ParticleSet) -> Iterator[tuple[str, Keys]]:
    both = (particles, reference)
    if all(one.source.cryosparc_uids() for one in both):
        yield "uid", lambda one: one.uid
    if all(one.source.expansion() is not None for one in both):
        yield "source uid and number of the copy", _expansion_keys
    yield "image path and index", lambda one: one.image_hash
    yield from ((_ORIGINAL, keys) for keys in _original_keys(particles, reference))
    # Converters link CryoSPARC's stack.mrc as stack.mrcs, for RELION.
    yield "image path (but for .mrc, .mrcs) and index", lambda one: _name_keys(one, _without_ending)
    if all(_names_are_unique(one) for one in both):
        yield "image file name and index", lambda one: _name_keys(one, os.path.basename)
        yield "imported image file name and index", lambda one: _name_keys(one, _imported_without_ending)


def _expansion_keys(particles: ParticleSet) -> UInt64Array:
    expansion = particles.source.expansion()
    if expansion is None:
        raise ValueError("these particles are not expanded")
    source, copy = (one[particles.row_id] for one in expansion)
    return mixed(mixed(source) ^ copy)


def _original_keys(particles: ParticleSet, reference: ParticleSet) -> Iterator[Keys]:
    """Yield keys of the images that those of a restacked or subtracted set were made from: one's, the other's, both."""
    original: dict[ParticleSource, UInt64Array] = {}
    for source in (particles.source, reference.source):
        references = source.original_images()
        if references is not None:
            original[source] = image_hashes(references)

    def keys(some: Collection[ParticleSource], one: ParticleSet) -> UInt64Array:
        return original[one.source][one.row_id] if one.source in some else one.image_hash

    for some in (*((source,) for source in original), *([tuple(original)] if len(original) == 2 else [])):
        yield partial(keys, some)


def _names_are_unique(particles: ParticleSet) -> bool:
    files = {plain_name(stack_file(name)) for name in particles.stack_names}
    return len({_imported_without_ending(name) for name in files}) == len(files)


def _without_ending(path: str) -> str:
    return plain_name(path).removesuffix("s").removesuffix(".mrc")


def _imported_without_ending(path: str) -> str:
    return _without_ending(imported_name(path))


def _name_keys(particles: ParticleSet, shortened: Callable[[str], str]) -> UInt64Array:
    names = tuple(shortened(stack_file(name)) for name in particles.stack_names)
    return image_hashes(ImageReferences(names, particles.stack_id, particles.stack_index))


def positions_of(particles: ParticleSet) -> Positions | None:
    """Return where particles lie on their micrographs; None when their file does not tell (0 everywhere)."""
    positions = particles.source.positions()
    if positions is None or not np.any(positions.xy_px[particles.row_id]):
        return None
    return positions.subset(particles.row_id)


def _held_against_evidence(
    particles: ParticleSet, reference: ParticleSet, rows: Rows, what: str, decisive: bool
) -> tuple[str | None, tuple[str, ...]]:
    """Return why rows found by name cannot be right (None when they can), and notes."""
    mine, theirs = positions_of(particles), positions_of(reference)
    if mine is None or theirs is None:
        if decisive:
            return None, ()
        return contradiction(particles, reference, rows, what), unrelated_notes(particles, reference, rows)
    agreement = compare_positions(mine, theirs.subset(rows))
    if not agreement.wrong.any():
        return None, () if agreement.note is None else (f"{particles.path}: positions {agreement.note}",)
    row = int(np.argmax(agreement.wrong))
    known = agreement.distance_px[agreement.wrong & np.isfinite(agreement.distance_px)]
    far = f"up to {known.max():.0f} px apart on the micrograph" if len(known) else "on other micrographs"
    n = int(np.count_nonzero(agreement.wrong))
    if decisive:
        note = f"{n} of {particles.n} particles are the same by {what}, but lie {far} in the two files"
        return None, (note,)
    return (
        f"{particles.describe_row(row)}, is by {what} the same as {reference.describe_row(int(rows[row]))}, but their "
        f"positions say that they are different particles ({n} of {particles.n} such rows, {far})",
        (),
    )


def _by_position(particles: ParticleSet, reference: ParticleSet, as_list: bool) -> tuple[RowMatch | None, int | None]:
    """Join by micrograph and position; None with the number of rows that were not found (None: not tried).

    Boxes come first. Those of an extraction that recentred lie elsewhere, but the particles in them do not: RELION's
    coordinate minus its origin is where a particle lies.
    """
    mine, theirs = positions_of(particles), positions_of(reference)
    if mine is None or theirs is None:
        return None, None
    found, missing, farthest = _nearest(mine, theirs, SAME_POSITION_PX)
    what, said = "micrograph and position", "their positions"
    if missing and {particles.source.format, reference.source.format} == {"star"}:
        reach = _ALIKE * min(_box_px(particles), _box_px(reference))
        centred = _centred(mine, particles), _centred(theirs, reference)
        again, left, far = _nearest(*centred, reach) if reach > 0 else (None, missing, farthest)
        if not left:
            found, missing, farthest = again, left, far
            what, said = "micrograph and place of the particle", "where they lie (coordinates minus origins)"
    if found is None:
        return None, missing
    place, keys = found
    rows, criterion = tell_copies(particles, reference, place, keys, as_list=as_list)
    note = (
        f"{particles.path}: its images are not those of {reference.path}; particles were found by {said}, "
        f"which differ by up to {farthest:.1f} px"
    )
    return RowMatch(rows, what if criterion is None else f"{what}, copies by {criterion}", (note,)), 0


def _nearest(
    mine: Positions, theirs: Positions, reach_px: float
) -> tuple[tuple[UInt64Array, UInt64Array] | None, int | None, float]:
    """Find the places of N particles among those of M rows, none farther than ``reach_px``.

    Returns
    -------
    found : ((N,), (M,) uint64) or None
        Keys that are equal for particles and rows of one place; None when some have no place of their own.
    missing : int or None
        How many; None when it could not be tried.
    farthest : float
        Largest distance in px.
    """
    names, code = np.unique(np.concatenate([mine.names(), theirs.names()]), return_inverse=True)
    apart = 1e3 + 4 * np.abs(np.concatenate([mine.xy_px, theirs.xy_px])).max(initial=0)
    if len(names) * apart > 1e15:
        return None, None, 0.0
    points = np.column_stack([code * apart, np.concatenate([mine.xy_px, theirs.xy_px])])
    wanted, available = points[: mine.xy_px.shape[0]], points[mine.xy_px.shape[0] :]
    places, place_of_row = np.unique(available.round(3), axis=0, return_inverse=True)
    distance, place = cKDTree(places).query(wanted, k=min(2, len(places)))
    distance, place = distance.reshape(len(wanted), -1), place.reshape(len(wanted), -1)
    near = distance[:, 0] <= reach_px
    if distance.shape[1] == 2:  # two neighbours so close to each other cannot be told apart
        near &= distance[:, 1] > 2 * reach_px
    missing, farthest = int(np.count_nonzero(~near)), float(distance[:, 0].max())
    if missing:
        return None, missing, farthest
    return (place[:, 0].astype(np.uint64), place_of_row.reshape(-1).astype(np.uint64)), 0, farthest


def _centred(positions: Positions, particles: ParticleSet) -> Positions:
    """Return where the particles lie rather than their boxes, as RELION counts both."""
    pixel_A = particles.source.micrograph_pixel_A(particles.row_id)
    return replace(positions, xy_px=positions.xy_px + particles.shift_A / pixel_A[:, None])


def _box_px(particles: ParticleSet) -> float:
    """Return the width of the smallest box in pixels of the micrograph; 0 where it is not known."""
    box_A = np.array([(group.box_size or 0) * group.pixel_size_A for group in particles.optics])
    pixel_A = particles.source.micrograph_pixel_A(particles.row_id)
    return float((box_A[particles.optics_index] / pixel_A).min())

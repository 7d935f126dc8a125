"""Copies of one image told apart: rows of symmetry-expanded sets and of sub-particles share an image on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.image_names import UInt64Array, occurrences
from cryodrgn_ext.metadata.particle_ctf import Float64Array
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.particle_source import Rows

#: The nearest pose must be so much nearer than the next one to be taken for the same copy.
CLEARLY_NEARER = 0.25
#: Copies whose poses differ by less are not told apart by them.
SMALLEST_DIFFERENCE_RAD = 1e-4
_RADIUS_A = 50.0  # turns a shift into an angle where the size of the images is unknown
_PAIRS_AT_A_TIME = 1 << 18
_OPEN = -1


@dataclass(frozen=True)
class Copies:
    """Which rows of a reference each of N particles may be: ``order[first : first + count]``.

    Attributes
    ----------
    order : (M,) int64
        Rows of the reference, those of one key together, in the order of the file.
    first, count : (N,) int64
    mates : (N,) int64
        How many of the N particles have the key of this one.
    """

    order: Rows
    first: Rows
    count: Rows
    mates: Rows

    @classmethod
    def of_keys(cls, wanted: UInt64Array, available: UInt64Array) -> Copies:
        """Candidates (at least one each) are the rows of equal keys."""
        order = np.argsort(available, kind="stable").astype(np.int64)
        ordered = available[order]
        first = np.searchsorted(ordered, wanted, "left").astype(np.int64)
        count = np.searchsorted(ordered, wanted, "right").astype(np.int64) - first
        _, inverse, mates = np.unique(wanted, return_inverse=True, return_counts=True)
        return cls(order, first, count, mates[inverse].astype(np.int64))

    def pairs(self, rows: Rows) -> tuple[Rows, Rows]:
        """Return (position in ``rows``, row of the reference) of all candidates of some particles."""
        count = self.count[rows]
        mine = np.repeat(np.arange(len(rows)), count)
        within = np.arange(len(mine)) - np.repeat(np.cumsum(count) - count, count)
        return mine, self.order[np.repeat(self.first[rows], count) + within]


def tell_copies(
    particles: ParticleSet,
    reference: ParticleSet,
    wanted: UInt64Array,
    available: UInt64Array,
    *,
    as_list: bool = False,
) -> tuple[Rows, str | None]:
    """Return the row (N,) of every particle among the rows of equal keys, and by what copies were told apart.

    Copies are told apart by the text or values of their rows (two files of one suite), then by their poses.

    Parameters
    ----------
    particles, reference : ParticleSet
    wanted, available : (N,), (M,) uint64
        Keys of their rows: equal for rows of one image.
    as_list : bool
        Only which rows are meant matters; a row may be meant twice.

    Raises
    ------
    InputError
        When more than one row may be meant, or one row would be taken twice; the message names the rows.
    """
    copies = Copies.of_keys(wanted, available)
    found = np.where(copies.count == 1, copies.order[np.minimum(copies.first, len(copies.order) - 1)], _OPEN)
    criteria: list[str] = []
    for how, find in (("their other columns", _by_columns), ("their poses", _by_poses)):
        left = np.flatnonzero(found == _OPEN)
        if not len(left):
            break
        new = find(particles, reference, copies, left)
        if np.any(new != _OPEN):
            criteria.append(how)
            found[left] = new
    left = np.flatnonzero(found == _OPEN)
    if len(left):
        # All copies are there on both sides, and nothing tells them apart: each is one of them.
        whole = copies.mates[left] == copies.count[left]
        undistinguished = as_list or not (particles.has_poses and reference.has_poses)
        if not whole.all() or not undistinguished:
            raise _ambiguous(particles, reference, copies, left[~whole] if not whole.all() else left)
        found[left] = copies.order[copies.first[left] + occurrences(wanted[left]).astype(np.int64)]
        criteria.append("the order of their rows")
    if not as_list:
        _refuse_twice(particles, reference, found)
    return found, " and ".join(criteria) or None


def _by_columns(particles: ParticleSet, reference: ParticleSet, copies: Copies, left: Rows) -> Rows:
    """Rows whose shared columns are all equal; identical rows in their order when all of them are there."""
    new = np.full(len(left), _OPEN)
    if particles.source.format != reference.source.format:
        return new
    shared = [one for one in particles.source.column_names() if one in set(reference.source.column_names())]
    shared = [one for one in shared if not one.startswith("cdx")]
    mine = particles.source.fingerprints(shared, particles.row_id[left])
    theirs = reference.source.fingerprints(shared, reference.row_id)
    # Twins are rows that are identical in every column, image included: each is one of them when all are there.
    _, twin, n_mine = np.unique(mine, return_inverse=True, return_counts=True)
    rank = occurrences(mine).astype(np.int64)
    for part in _parts(copies, left):
        at, row = copies.pairs(left[part])
        equal = mine[part][at] == theirs[row]
        at, row = at[equal], row[equal]
        n_theirs = np.bincount(at, minlength=len(left[part]))
        first = np.searchsorted(at, np.arange(len(n_theirs)))
        for n in np.unique(n_theirs[n_theirs > 0]).tolist():
            some = np.flatnonzero((n_theirs == n) & ((n == 1) | (n_mine[twin[part]] == n)))
            place = np.zeros(len(some), np.int64) if n == 1 else rank[part][some]
            new[part.start + some] = row[first[some] + place]
    return new


def _parts(copies: Copies, left: Rows) -> Iterator[slice]:
    """Yield slices of ``left`` that have a bounded number of candidates."""
    step = max(1, _PAIRS_AT_A_TIME // int(copies.count[left].max()))
    for begin in range(0, len(left), step):
        yield slice(begin, min(begin + step, len(left)))


def _by_poses(particles: ParticleSet, reference: ParticleSet, copies: Copies, left: Rows) -> Rows:
    """Rows whose pose is clearly the nearest."""
    new = np.full(len(left), _OPEN)
    if not (particles.has_poses and reference.has_poses):
        return new
    radius_A = _radius_A(reference)
    for some in _parts(copies, left):
        part = left[some]
        at, row = copies.pairs(part)
        distance = _pose_distance(particles, reference, part[at], row, radius_A)
        order = np.lexsort((distance, at))
        first = np.searchsorted(at[order], np.arange(len(part)))
        nearest, second = distance[order[first]], distance[order[first + 1]]
        clear = (nearest < CLEARLY_NEARER * second) & (second > SMALLEST_DIFFERENCE_RAD)
        new[some] = np.where(clear, row[order[first]], _OPEN)
    return new


def _radius_A(reference: ParticleSet) -> float:
    extents = [group.box_size * group.pixel_size_A for group in reference.optics if group.box_size]
    return 0.25 * max(extents) if extents else _RADIUS_A


def _pose_distance(
    particles: ParticleSet, reference: ParticleSet, mine: Rows, theirs: Rows, radius_A: float
) -> Float64Array:
    """Return how far two poses move a point at ``radius_A`` from the centre, as an angle in rad."""
    a, b = particles.rotation[mine], reference.rotation[theirs]
    # The chord of the angle between two rotations, which keeps its digits at small angles.
    chord = np.linalg.norm((a - b).reshape(len(a), 9), axis=1) / np.sqrt(2.0)
    shift = np.linalg.norm(particles.shift_A[mine] - reference.shift_A[theirs], axis=1) / radius_A
    return np.asarray(np.hypot(2 * np.arcsin(np.minimum(chord / 2, 1.0)), shift), np.float64)


def _ambiguous(particles: ParticleSet, reference: ParticleSet, copies: Copies, left: Rows) -> InputError:
    row = int(left[0])
    candidates = copies.order[copies.first[row] : copies.first[row] + copies.count[row]]
    rows = ", ".join(str(int(reference.row_id[one]) + 1) for one in candidates[:6].tolist())
    more = f" and {len(candidates) - 6} more" if len(candidates) > 6 else ""
    return InputError(
        f"{particles.describe_row(row)}: may be any of the rows {rows}{more} of {reference.path}, which are copies of "
        f"one image ({len(left)} such rows); neither identifiers nor columns nor poses tell which: give rows of that "
        "very file, or row numbers"
    )


def _refuse_twice(particles: ParticleSet, reference: ParticleSet, found: npt.NDArray[np.int64]) -> None:
    order = np.argsort(found, kind="stable")
    twice = np.flatnonzero(found[order[1:]] == found[order[:-1]])
    if len(twice):
        one, other = int(order[twice[0]]), int(order[twice[0] + 1])
        raise InputError(
            f"{particles.describe_row(other)}: is the row {int(reference.row_id[found[one]]) + 1} of {reference.path}, "
            f"but so is row {int(particles.row_id[one]) + 1} ({len(twice)} such rows): the reference lacks copies of "
            "images that these particles have; give the file that has them all"
        )

"""The two half-sets of particles: the file's own where they are independent, else drawn at random."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.metadata.image_names import UInt64Array, mixed
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.shared_density import (
    IMAGE,
    NAMES,
    NEIGHBOURS,
    PARTICLE,
    Groups,
    SharedDensity,
    count_split,
    find_shared_density,
    joined_groups,
)

HalfSet = npt.NDArray[np.int8]
#: Smallest share of the particles that a half-set should have.
FAIR_SHARE = 0.4
#: A half-set with a smaller share has a half-map of three times the noise of the other's, or more: it shows nothing.
LEAST_SHARE = 0.1


@dataclass(frozen=True)
class HalfSetChoice:
    """Half-sets and where they come from.

    Attributes
    ----------
    half_set : (N,) int8
        1 or 2.
    from_file : bool
        Whether they are those of the file.
    notes : tuple of str
        What a user should know of them, one sentence each.
    """

    half_set: HalfSet
    from_file: bool
    notes: tuple[str, ...]


def choose_half_sets(particles: ParticleSet, seed: int) -> HalfSetChoice:
    """Choose the half-sets to work with.

    Those of the file, unless there are none, (nearly) all particles are in one, or they part rows that certainly share
    density; then they are drawn at random by groups of such rows.

    Parameters
    ----------
    particles : ParticleSet
    seed : int
        For the random split.
    """
    shared, own = find_shared_density(particles), particles.half_set
    if not particles.n or not own.all():
        return _drawn(particles, seed, "have no half-sets (rlnRandomSubset, alignments3D/split)")
    if len(np.unique(own)) == 1:
        return _drawn(particles, seed, f"are all in half-set {own[0]}")
    if _smaller_share(own) < LEAST_SHARE:
        return _drawn(particles, seed, f"have half-sets of {_sizes(own)} particles, too few in one for a half-map")
    torn = split_relations(shared, own)
    if torn:
        return _drawn(
            particles, seed, f"have half-sets that part {torn}, so that they are not independent and not used"
        )
    return HalfSetChoice(own, True, (*_unequal_notes(particles, own), *neighbour_notes(particles, own)))


def split_relations(shared: SharedDensity, half_set: HalfSet) -> str:
    """Say which certain relations half-sets part, for a message; empty when there are none."""
    said = []
    for relation, groups in shared.certain.items():
        several, split = count_split(groups, half_set)
        if split:
            said.append(f"{split} of {several} {NAMES[relation][several > 1]}")
    return " and ".join(said)


def own_half_set_warnings(particles: ParticleSet) -> tuple[str, ...]:
    """Say where the half-sets of the file are not independent, for jobs that hand them on without using them."""
    own = particles.half_set
    if not particles.n or not own.all():
        return ()
    if len(np.unique(own)) == 1:
        return (
            f"Warning: all {particles.n} particles are in half-set {own[0]}: a refinement has no second half-map, and "
            "RELION stops; leave the column out (rlnRandomSubset, alignments3D/split) to have half-sets drawn anew.",
        )
    unequal = _unequal_notes(particles, own)
    torn = split_relations(find_shared_density(particles), own)
    if torn:
        return (
            *unequal,
            f"Warning: the half-sets of {particles.path} part {torn}: half-maps of them share density, and their "
            "resolution is too good. They are handed on as they are; leave the column out (rlnRandomSubset, "
            "alignments3D/split) to have them drawn anew.",
        )
    return (*unequal, *neighbour_notes(particles, own))


def _smaller_share(half_set: HalfSet) -> float:
    first = int(np.count_nonzero(half_set == 1))
    return min(first, len(half_set) - first) / max(1, len(half_set))


def _sizes(half_set: HalfSet) -> str:
    return " and ".join(str(int(np.count_nonzero(half_set == half))) for half in (1, 2))


def _unequal_notes(particles: ParticleSet, half_set: HalfSet) -> tuple[str, ...]:
    """Say when half-sets differ in size by more than chance or whole filaments make them."""
    n, share = len(half_set), _smaller_share(half_set)
    if share >= FAIR_SHARE or (1 - 2 * share) * n < 3 * n**0.5:
        return ()
    return (
        f"Warning: the half-sets of {particles.path} have {_sizes(half_set)} particles: resolutions are those that the "
        "smaller one allows; leave the column out (rlnRandomSubset, alignments3D/split) to have them drawn anew.",
    )


def draw_half_sets(shared: SharedDensity, image_hash: UInt64Array, seed: int) -> tuple[HalfSet, tuple[str, ...]]:
    """Draw half-sets (N,) that part no group, and name the relations that they observe besides that of one image.

    A relation that would make one half much larger than the other (all particles are neighbours of each other on one
    micrograph, or boxes of one filament) is left out, neighbours first.
    """
    certain = shared.certain
    near = [one for one in (shared.overlapping, shared.picked_twice) if one is not None]
    copies = {name: groups for name, groups in certain.items() if name in (IMAGE, PARTICLE)}
    ladder = [(certain, one) for one in near] + [(certain, None), (copies, None)]
    for relations, neighbours in ladder:
        groups = joined_groups([*relations.values(), *([] if neighbours is None else [neighbours])])
        half_set = random_half_sets(groups, image_hash, seed)
        if min(np.bincount(half_set, minlength=3)[1:]) >= FAIR_SHARE * len(half_set):
            break
    used = [name for name, one in relations.items() if name != IMAGE and _has_groups(one)]
    if neighbours is not None and _has_groups(neighbours):
        used.append(NEIGHBOURS)
    return half_set, tuple(used)


def half_sets_for_copies(particles: ParticleSet, half_set: HalfSet, copies: Groups, seed: int) -> HalfSet | None:
    """Draw half-sets anew where the present ones part copies of one image; None where they do not.

    Parameters
    ----------
    particles : ParticleSet
    half_set : (N,) int8
        In use.
    copies : (N,) int64
        Groups of rows whose images have the same pixels, whatever their names.
    seed : int
    """
    if not count_split(copies, half_set)[1]:
        return None
    shared = find_shared_density(particles)
    together = {**shared.certain, IMAGE: joined_groups([shared.certain[IMAGE], copies])}
    return draw_half_sets(replace(shared, certain=together), particles.image_hash, seed)[0]


def random_half_sets(groups: Groups, image_hash: UInt64Array, seed: int) -> HalfSet:
    """Return (N,) half-sets 1 and 2, the same for all rows of a group, as balanced as the sizes of the groups allow.

    They depend on the images of the groups and the seed, not on the order of the rows.
    """
    if not len(groups):
        return np.zeros(0, np.int8)
    size = np.bincount(groups)
    name = np.full(len(size), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(name, groups, image_hash)
    order = np.argsort(mixed(name ^ mixed(np.array([seed]))), kind="stable")
    half_of = np.empty(len(size), np.int8)
    total = [0, 0]
    for rows in np.unique(size)[::-1].tolist():  # large ones first, so that small ones even out
        alike = order[size[order] == rows]
        smaller = int(total[1] < total[0])
        lacking = min(len(alike), abs(total[0] - total[1]) // rows)
        half = (np.arange(len(alike)) - lacking + smaller) % 2
        half[:lacking] = smaller
        half_of[alike] = half + 1
        total = [total[i] + rows * int(np.count_nonzero(half == i)) for i in (0, 1)]
    return half_of[groups]


def _has_groups(groups: Groups) -> bool:
    return int(groups.max(initial=-1)) + 1 < len(groups)


def _drawn(particles: ParticleSet, seed: int, why: str) -> HalfSetChoice:
    half_set, used = draw_half_sets(find_shared_density(particles), particles.image_hash, seed)
    by = f", whole {' and '.join(NAMES[name][1] for name in used)} at a time" if used else ""
    notes = [f"The particles {why}: they are split at random{by}."]
    torn = split_relations(find_shared_density(particles), half_set)
    if torn:
        notes.append(
            f"Warning: the random half-sets part {torn}, as there are too few for two halves: resolutions are too "
            "good, and differences between states mean little."
        )
    return HalfSetChoice(half_set, False, tuple(notes))


def neighbour_notes(particles: ParticleSet, half_set: HalfSet) -> tuple[str, ...]:
    """Warn of particles picked twice that half-sets (N,) part."""
    twice = find_shared_density(particles).picked_twice
    if twice is None:
        return ()
    several, split = count_split(twice, half_set)
    if not split:
        return ()
    return (
        f"Warning: {split} of {several} groups of particles that lie nearer to each other on a micrograph than a "
        "quarter of the box (picked twice?) are in both half-sets, so that resolutions may be too good: remove "
        "duplicates.",
    )

"""Which rows show the same density, so that half-sets must not part them.

Two half-maps are independent only when no pixel of noise is in both. Rows share pixels or a particle when they have one
image, when they are copies of one particle (symmetry expansion, signal subtraction), boxes along one filament
(cf. He & Scheres, J. Struct. Biol. 198 (2017) 163), tilt images of one particle, or neighbours on a micrograph.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from cryodrgn_ext.metadata.image_names import UInt64Array
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.tilt_series import find_tilt_series, with_singles

Groups: TypeAlias = npt.NDArray[np.int64]

IMAGE, PARTICLE, FILAMENT, TILTS, NEIGHBOURS = "image", "particle", "filament", "tilt series", "neighbours"
#: Names of the relations in messages, one and several.
NAMES = {
    IMAGE: ("image", "images"),
    PARTICLE: ("particle (symmetry copies, subtracted images)", "particles (symmetry copies, subtracted images)"),
    FILAMENT: ("filament", "filaments"),
    TILTS: ("tilt series of a particle", "tilt series of particles"),
    NEIGHBOURS: ("group of neighbours on a micrograph", "groups of neighbours on a micrograph"),
}
#: Distance of box centres below which two rows are one particle picked twice, as a fraction of the box: particles that
#: touch are about half a box apart, as boxes are 1.5 to 2 diameters wide.
SAME_PARTICLE = 0.25
#: Names that mean no micrograph.
NO_MICROGRAPH = ("", "None", "none", "0", "-1")
#: Rows whose neighbours are sought at a time.
ROWS_AT_A_TIME = 50_000


@dataclass(frozen=True)
class SharedDensity:
    """Relations between N rows.

    Attributes
    ----------
    certain : dict of str to (N,) int64
        Groups of rows by relation: rows of one number belong together. Neighbours are not among them.
    overlapping : (N,) int64 or None
        Groups of rows whose boxes overlap, directly or through others; None when positions are unknown.
    picked_twice : (N,) int64 or None
        The same of rows nearer than a quarter of the box.
    """

    certain: dict[str, Groups]
    overlapping: Groups | None = None
    picked_twice: Groups | None = None


# Several questions are asked of one set of particles, and looking for neighbours takes seconds.
_FOUND: WeakKeyDictionary[ParticleSet, SharedDensity] = WeakKeyDictionary()


def find_shared_density(particles: ParticleSet) -> SharedDensity:
    """Find out which of N particles share density by what their file says of them (once for a set)."""
    found = _FOUND.get(particles)
    if found is None:
        found = _FOUND[particles] = _find(particles)
    return found


def _find(particles: ParticleSet) -> SharedDensity:
    rows, source = particles.row_id, particles.source
    certain = {IMAGE: _numbered(particles.image_hash)}
    identities = list(source.identities(rows))
    for relation in (PARTICLE, FILAMENT):
        found = [with_singles(one.number) for one in identities if one.relation == relation]
        if found:
            certain[relation] = reduce(_joined, found)
    tilts = find_tilt_series(particles)
    if tilts is not None:
        certain[TILTS] = tilts.group
    positions = source.positions()
    if positions is None:
        return SharedDensity(certain)
    positions = positions.subset(rows)
    unknown = np.array([name in NO_MICROGRAPH for name in positions.micrographs])
    micrograph = np.where(unknown[positions.micrograph], -1, positions.micrograph)
    centre_A = positions.xy_px * source.micrograph_pixel_A(rows)[:, None]
    box_A = np.array([(group.box_size or 0) * group.pixel_size_A for group in particles.optics])[particles.optics_index]
    return SharedDensity(
        certain, _near(micrograph, centre_A, box_A), _near(micrograph, centre_A, SAME_PARTICLE * box_A)
    )


def joined_groups(groups: Iterator[Groups] | list[Groups]) -> Groups:
    """Return the finest groups (N,) that part no row from others of its group in any of several groupings."""
    return reduce(_joined, groups)


def count_split(groups: Groups, half_set: npt.NDArray[np.int8]) -> tuple[int, int]:
    """Count the groups of two rows or more, and those of them that have rows in both half-sets."""
    count = int(groups.max(initial=-1)) + 1
    size = np.bincount(groups, minlength=count)
    first = np.bincount(groups[half_set == 1], minlength=count)
    return int((size > 1).sum()), int(((first > 0) & (first < size)).sum())


def _numbered(values: UInt64Array) -> Groups:
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _joined(one: Groups, other: Groups) -> Groups:
    """Connect the groups of two groupings that have a row in common."""
    n_one, n_other = int(one.max(initial=-1)) + 1, int(other.max(initial=-1)) + 1
    if n_other == len(other):
        return one  # all alone
    graph = coo_array((np.ones(len(one), np.int8), (one, n_one + other)), shape=(n_one + n_other,) * 2)
    found: Groups = connected_components(graph, directed=False)[1].astype(np.int64)
    return found[one]


def _near(micrograph: Groups, centre_A: npt.NDArray[np.float64], reach_A: npt.NDArray[np.float64]) -> Groups:
    """Connect rows of one micrograph whose centres (N, 2) are nearer than ``reach_A`` (N,) along both axes."""
    n = len(micrograph)
    label = np.arange(n)
    somewhere = np.isfinite(centre_A).all(axis=1) & centre_A.any(axis=1)  # 0, 0 means unknown
    known = np.flatnonzero((micrograph >= 0) & somewhere & (reach_A > 0))
    order = known[np.argsort(micrograph[known], kind="stable")]
    for part in _parts(micrograph[order]):
        rows = order[part]
        reach = float(reach_A[rows].max())
        centre = centre_A[rows]
        # One tree for all micrographs of the part: they are laid out in a row, too far apart to be neighbours.
        place = np.unique(micrograph[rows], return_inverse=True)[1]
        extent = float(np.ptp(centre[:, 0])) + 4 * reach
        tree = cKDTree(centre + np.stack([place * extent, np.zeros(len(rows))], axis=1))
        pairs = tree.query_pairs(reach * (1 - 1e-6), p=np.inf, output_type="ndarray")
        if len(pairs):
            graph = coo_array((np.ones(len(pairs), np.int8), pairs.T), shape=(len(rows),) * 2)
            found = connected_components(graph, directed=False)[1]
            first = np.full(int(found.max()) + 1, n)
            np.minimum.at(first, found, rows)
            label[rows] = first[found]
    return np.unique(label, return_inverse=True)[1].astype(np.int64)


def _parts(micrograph: Groups) -> Iterator[slice]:
    """Cut sorted micrograph numbers (n,) into pieces of whole micrographs."""
    begin, n = 0, len(micrograph)
    while begin < n:
        last = micrograph[min(begin + ROWS_AT_A_TIME, n) - 1]
        end = int(np.searchsorted(micrograph, last, side="right"))
        yield slice(begin, end)
        begin = end

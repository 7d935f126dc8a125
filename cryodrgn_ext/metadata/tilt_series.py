"""Rows that are tilt images of particles rather than particles: recognised by what no single particles have.

M, Warp, nextPYP and others write the images of a tilt series as rows of a 2D file. No column says so. What tells is
what a tilt has of its own and all particles of a series share: the B-factor of its dose (rlnCtfBfactor, -4 times the
dose), the cosine of its angle (rlnCtfScalefactor), the dose before it, its number; and what is the same in the rows of
one particle: rlnGroupName, rlnGroupNumber, its position on the micrograph or in the tomogram, its stack, or only that
its rows follow each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.particle_ctf import Float64Array
from cryodrgn_ext.metadata.particle_set import ParticleSet

Groups: TypeAlias = npt.NDArray[np.int64]

IN_ORDER = "rows that follow each other"
#: Fewest tilts of a series by which rows without a name for their particle are recognised.
_FEWEST_TILTS = 3
#: Most values that a column of tilts has, as a multiple of the images of one particle.
_SERIES_AT_MOST = 4.0


@dataclass(frozen=True)
class TiltSeries:
    """Tilt images among N rows.

    Attributes
    ----------
    group : (N,) int64
        Which rows are images of one particle.
    by : str
        The columns by which these rows belong together.
    differing : tuple of str
        The columns that tell the tilts of a particle apart.
    """

    group: Groups
    by: str
    differing: tuple[str, ...]

    @property
    def n_particles(self) -> int:
        """How many particles the rows show."""
        return int(self.group.max(initial=-1)) + 1


# Several questions are asked of one set of particles.
_FOUND: WeakKeyDictionary[ParticleSet, TiltSeries | None] = WeakKeyDictionary()


def find_tilt_series(particles: ParticleSet) -> TiltSeries | None:
    """Return which rows are tilt images of one particle; None when rows are single particles, as far as can be told."""
    if particles not in _FOUND:
        _FOUND[particles] = _find(particles)
    return _FOUND[particles]


def _find(particles: ParticleSet) -> TiltSeries | None:
    source, rows = particles.source, particles.row_id
    columns = {name: values for name, values in source.tilt_columns(rows).items() if np.ptp(values) > 0}
    if particles.n < 2 or not (columns or source.tomography_columns()):
        return None
    keys = [(by, with_singles(key)) for by, key in source.particle_keys(rows)]
    if any(_named_alone(by, member) for by, member in keys):
        return None
    if source.tomography_columns():
        for by, member in keys:
            if _distinct(member, np.bincount(member), _numbers(particles.image_hash)):
                return TiltSeries(member, by, ("images",))
    if not columns:
        return None
    tilt, scale = _numbered_rows(list(columns.values())), particles.ctf.scale
    cosines = bool(np.ptp(scale) > 0 and scale.min() > 0 and scale.max() <= 1.0 + 1e-6)
    for by, member in keys:
        size = np.bincount(member)
        if _are_doses(member, size, tilt) or (cosines and _are_cosines(member, size, tilt, scale)):
            return TiltSeries(member, by, tuple(columns))
    for by, key in (("stack of images", particles.stack_id.astype(np.int64)), (IN_ORDER, _runs(tilt))):
        member = _numbers(key)
        size = np.bincount(member)
        # Nothing says that these are particles: the next one must have the very same tilts.
        if _are_doses(member, size, tilt) and _like_the_next(member, len(size), tilt) > 0.5:
            return TiltSeries(member, by, tuple(columns))
    return None


def _named_alone(by: str, member: Groups) -> bool:
    """Whether a column of names calls every row a particle of its own; positions may be those in each tilt image."""
    return "," not in by and by != "rlnParticleId" and int(member.max()) + 1 == len(member)


def _distinct(member: Groups, size: Groups, number: Groups) -> bool:
    """Whether most rows are one of several of a group, in which no number comes twice."""
    several = size[member] > 1
    rows = int(several.sum())
    pair = member[several] * (int(number.max()) + 1) + number[several]
    return rows > 0.5 * len(member) and len(np.unique(pair)) >= 0.99 * rows


def _are_doses(member: Groups, size: Groups, tilt: Groups) -> bool:
    """Whether no particle has two images of one tilt, and particles share their tilts."""
    if not _distinct(member, size, tilt):
        return False
    images = float(size[size > 1].mean())
    values = int(tilt.max()) + 1
    if images < _FEWEST_TILTS or values > 0.5 * len(member):
        return False
    sets = _codes_of_sets(member, len(size), tilt)[size > 1]
    _, inverse, count = np.unique(sets, return_inverse=True, return_counts=True)
    return values <= _SERIES_AT_MOST * images or float(np.mean(count[inverse] > 1)) >= 0.5


def _codes_of_sets(member: Groups, n_groups: int, tilt: Groups) -> Groups:
    """Return (n_groups,) numbers that are equal for particles of the same tilts."""
    code = np.random.default_rng(0).integers(1, 1 << 62, int(tilt.max()) + 1, dtype=np.int64)
    total = np.zeros(n_groups, np.int64)
    np.add.at(total, member, code[tilt])  # wraps around, as hashes do
    return total


def _like_the_next(member: Groups, n_groups: int, tilt: Groups) -> float:
    """Return the share of particles that have exactly the tilts of the next one in the file."""
    sets = _codes_of_sets(member, n_groups, tilt)
    return float(np.mean(sets[1:] == sets[:-1])) if n_groups > 1 else 0.0


def _are_cosines(member: Groups, size: Groups, tilt: Groups, scale: Float64Array) -> bool:
    """Whether cosines differ within particles and are shared between them; tilts of both signs may have equal ones."""
    several = size[member] > 1
    if not several.any():
        return False
    pair = member[several] * (int(tilt.max()) + 1) + tilt[several]
    alone = len(np.unique(pair)) / int(several.sum())  # 1 when no two rows of a particle have the same weights
    lowest, highest = np.full(len(size), np.inf), np.full(len(size), -np.inf)
    np.minimum.at(lowest, member, scale)
    np.maximum.at(highest, member, scale)
    varied = float(np.mean((highest - lowest > 1e-3)[size > 1]))
    # The tilts of a series are shared by its particles; 0.4 leaves room for tilts of both signs without doses.
    shared = len(np.unique(tilt)) <= 0.5 * len(member) or len(size) == 1
    return alone > 0.4 and varied > 0.5 and shared


def _runs(tilt: Groups) -> Groups:
    """Return (N,) numbers of the longest runs of rows in which no tilt comes twice."""
    n = len(tilt)
    order = np.argsort(tilt, kind="stable")
    before = np.full(n, -1)
    same = tilt[order[1:]] == tilt[order[:-1]]
    before[order[1:][same]] = order[:-1][same]
    latest = np.maximum.accumulate(before)  # a run that begins at s ends before the first row with latest >= s
    following = np.searchsorted(latest, np.arange(n), side="left")
    starts, begin = [], 0
    while begin < n:
        starts.append(begin)
        begin = int(following[begin])
    first = np.zeros(n, np.int64)
    first[starts[1:]] = 1
    return np.cumsum(first)


def refuse_tilt_series(particles: ParticleSet) -> None:
    """Raise InputError when rows are tilt images of particles, which jobs would take for particles each."""
    series = find_tilt_series(particles)
    if series is not None:
        raise InputError(
            f"{particles.path}: its {particles.n} rows are tilt images of {series.n_particles} particles of a tilt "
            f"series ({', '.join(series.differing)} {_differ(series)}, as M and Warp write), "
            "but every row would be taken for a particle of its own: tilt series are not supported; give images of "
            "single particles, or one tilt of each particle (the untilted one)"
        )


def tilt_series_warnings(particles: ParticleSet) -> tuple[str, ...]:
    """Say where rows are tilt images of particles, for jobs that hand them on without using them."""
    series = find_tilt_series(particles)
    if series is None:
        return suspected_tilts(particles)
    return (
        f"Warning: the {particles.n} rows of {particles.path} are tilt images of {series.n_particles} particles of "
        "a tilt series; they are handed on as they are, but what reads them as single particles, as CryoSPARC and "
        "cryodrgn do, takes every image for a particle of its own.",
    )


def _differ(series: TiltSeries) -> str:
    verb = "differ" if len(series.differing) > 1 else "differs"
    return f"{verb} within {series.by}" if series.by == IN_ORDER else f"{verb} within one {series.by}"


def suspected_tilts(particles: ParticleSet) -> tuple[str, ...]:
    """Say which columns look like those of tilt images where nothing tells the particles, so that none is refused."""
    source, rows = particles.source, particles.row_id
    tomography = source.tomography_columns()
    columns = [name for name, values in source.tilt_columns(rows).items() if _like_tilts(values)]
    if particles.n == 0 or not (columns or tomography) or find_tilt_series(particles) is not None:
        return ()
    if any(_named_alone(by, with_singles(key)) for by, key in source.particle_keys(rows)):
        return ()
    what = f"{', '.join(tomography)} belong to tomography" if tomography else (
        f"{', '.join(columns)} has few values, each in as many rows as the others, as the tilts of a series have"
    )  # fmt: skip
    return (
        f"Warning: {particles.path}: {what}. Every row is taken for a particle of its own; if rows are tilt images of "
        "particles, results mean nothing: give one tilt of each particle.",
    )


def _like_tilts(values: Float64Array) -> bool:
    """Whether each of several values comes in as many rows as the others, far oftener than in a few."""
    count = np.unique(np.round(values, 3), return_counts=True)[1]
    return bool(
        len(count) >= _FEWEST_TILTS and count.min() >= len(count) and np.median(np.abs(count / count.mean() - 1)) < 0.1
    )


def with_singles(number: Groups) -> Groups:
    """Return group numbers in which every row of -1 is a group of its own."""
    out = number.copy()
    alone = np.flatnonzero(number < 0)
    out[alone] = int(number.max(initial=-1)) + 1 + np.arange(len(alone))
    return _numbers(out)


def _numbers(values: npt.NDArray[np.integer]) -> Groups:
    number: Groups = np.unique(values, return_inverse=True)[1].astype(np.int64)
    return number


def _numbered_rows(columns: list[Float64Array]) -> Groups:
    """Return (N,) numbers of the combinations of values."""
    number = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        distinct, code = np.unique(np.round(column, 5), return_inverse=True)
        number = _numbers(number * len(distinct) + code)
    return number

"""Two images of every particle, from an untilted and a tilted micrograph: which row of one file goes with which.

Names tell where both files have a column that names particles. Otherwise pairs are rows of one number, which is held
against the micrographs (those of a pair go together) and the positions on them: what lies in one plane and is tilted
comes to lie at an affine image of where it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.particle_ctf import Float64Array
from cryodrgn_ext.metadata.particle_set import ParticleSet
from cryodrgn_ext.metadata.particle_source import Rows
from cryodrgn_ext.metadata.row_matching import positions_of

#: Columns that name a particle rather than its image, where no two rows have the same value.
NAMES = ("rlnParticleName", "rlnGroupName", "cdxUid", "uid")
#: Fewest pairs of a micrograph that show whether an affine map explains them: six numbers are fitted to two each.
_FEWEST = 6
#: Share of the spread of positions that an affine map leaves when rows are pairs; permuted rows leave about all of it.
_EXPLAINED = 0.3


@dataclass(frozen=True)
class PairedRows:
    """Rows of the tilted images in the order of the untilted ones.

    Attributes
    ----------
    rows : (N,) int64
    said : str
        By what they were paired.
    """

    rows: Rows
    said: str


def pair_rows(first: ParticleSet, second: ParticleSet) -> PairedRows:
    """Return for every particle of ``first`` the row of ``second`` that is its tilted image.

    Raises
    ------
    InputError
        When names or numbers of rows do not fit, or micrographs or positions say that rows of one number are no pairs.
    """
    for name in NAMES:
        if name in first.source.column_names() and name in second.source.column_names():
            rows = _by_name(first, second, name)
            if rows is not None:
                return PairedRows(rows, f"Tilt pairs were matched by {name}.")
    if second.n != first.n:
        raise InputError(
            f"{second.path} has {second.n} particles and {first.path} {first.n}: give the second image of every "
            "particle, in the order of the first ones."
        )
    _refuse_other_micrographs(first, second)
    left = _unexplained(first, second)
    if left is None:
        said = "nothing in the files tells whether that is right"
    elif left > _EXPLAINED:
        raise InputError(
            f"{second.path}: its rows are not in the order of those of {first.path}: positions on the tilted "
            f"micrographs are no tilted image of the others (half of the micrographs leave {100 * left:.0f} % of their "
            "spread unexplained); give both files in one order, or with a column rlnParticleName that names the pairs"
        )
    else:
        said = f"their positions are tilted images of each other to {100 * left:.1f} % of their spread"
    return PairedRows(np.arange(first.n), f"Tilt pairs were matched in the order of their rows; {said}.")


def _by_name(first: ParticleSet, second: ParticleSet, name: str) -> Rows | None:
    """Rows of equal names; None when the column does not name particles in both files alike."""
    mine, theirs = (one.source.column(name, one.row_id) for one in (first, second))
    if any(len(np.unique(one)) < len(one) or one.ndim != 1 for one in (mine, theirs)):
        return None
    order = np.argsort(theirs)
    place = order[np.minimum(np.searchsorted(theirs, mine, sorter=order), len(order) - 1)]
    missing = np.flatnonzero(theirs[place] != mine)
    if len(missing) == len(mine):
        return None
    if len(missing):
        raise InputError(
            f"{second.path}: lacks the tilted images of {len(missing)} of {first.n} particles by {name}, the first "
            f"being {first.describe_row(int(missing[0]))}; leave these particles out of both files"
        )
    return place.astype(np.int64)


def _micrographs(particles: ParticleSet) -> npt.NDArray[np.int64]:
    """Return (N,) numbers of the micrographs, of the stacks where those are not told."""
    positions = positions_of(particles)
    return particles.stack_id.astype(np.int64) if positions is None else positions.micrograph


def _refuse_other_micrographs(first: ParticleSet, second: ParticleSet) -> None:
    mine, theirs = _micrographs(first), _micrographs(second)
    for one, other in ((mine, theirs), (theirs, mine)):
        order = np.argsort(one, kind="stable")
        torn = np.flatnonzero((one[order[1:]] == one[order[:-1]]) & (other[order[1:]] != other[order[:-1]]))
        if len(torn) and len(np.unique(one)) > 1 and len(np.unique(other)) > 1:
            row, next_row = int(order[torn[0]]), int(order[torn[0] + 1])
            raise InputError(
                f"{second.path}: its rows are not in the order of those of {first.path}: rows {row + 1} and "
                f"{next_row + 1} are of one micrograph in one file and of two in the other ({len(torn)} such rows); "
                "give both files in one order, or with a column rlnParticleName that names the pairs"
            )


def _unexplained(first: ParticleSet, second: ParticleSet) -> float | None:
    """Return the share of the spread of positions that affine maps of micrographs leave, in the median one."""
    mine, theirs = positions_of(first), positions_of(second)
    if mine is None or theirs is None:
        return None
    left = []
    order = np.argsort(mine.micrograph, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(mine.micrograph[order])) + 1):
        if len(rows) >= _FEWEST:
            share = _left_by_fit(mine.xy_px[rows], theirs.xy_px[rows])
            left += [] if share is None else [share]
    return float(np.median(left)) if left else None


def _left_by_fit(xy: Float64Array, tilted: Float64Array) -> float | None:
    n = len(xy)
    design = np.column_stack([xy, np.ones(n)])
    spread = float(np.sqrt(np.square(tilted - tilted.mean(axis=0)).sum() / (n - 1)))
    if spread == 0 or np.linalg.matrix_rank(design) < 3:
        return None
    residual = tilted - design @ np.linalg.lstsq(design, tilted, rcond=None)[0]
    return float(np.sqrt(np.square(residual).sum() / (n - 3))) / spread

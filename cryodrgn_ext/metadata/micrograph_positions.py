"""Where on which micrograph particles lie: what tells one particle from another when names and numbers do not."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.metadata.particle_ctf import Float64Array

# CryoSPARC puts its uid in front of what it imports: 003806243878409217281_mic1.mrc
_IMPORT_PREFIX = re.compile(r"^\d{18,21}_")
# What motion correction of CryoSPARC and others append to the name of the movie.
_MOTION_SUFFIX = re.compile(r"(_(patch|rigid|doseweighted|aligned|full|non|mic|DW|noDW|ali2|mc2?))+$")
#: Positions that differ by no more are the same: programs round them to whole pixels.
SAME_POSITION_PX = 2.0
_FEWEST_FOR_A_FIT = 4


@dataclass(frozen=True, eq=False)
class Positions:
    """Where N particles lie.

    Attributes
    ----------
    micrographs : tuple of str
        Names as written.
    micrograph : (N,) int64
        Index into ``micrographs``.
    xy_px : (N, 2) float64
        x, y in pixels of the micrograph, as RELION counts them.
    """

    micrographs: tuple[str, ...]
    micrograph: npt.NDArray[np.int64]
    xy_px: Float64Array

    def subset(self, rows: npt.NDArray[np.int64]) -> Positions:
        """Return those of some particles."""
        return Positions(self.micrographs, self.micrograph[rows], self.xy_px[rows])

    def names(self) -> npt.NDArray[np.str_]:
        """Return (N,) names of the micrographs without folders, endings, and what programs put around them."""
        short = np.array([plain_micrograph_name(name) for name in self.micrographs] or [""])
        return short[self.micrograph]


def imported_name(path: str) -> str:
    """Return the name of a file without folders and without the number that CryoSPARC puts in front."""
    return _IMPORT_PREFIX.sub("", os.path.basename(path))


def plain_micrograph_name(path: str) -> str:
    """Return what different programs' names of one micrograph have in common."""
    stem = imported_name(path.removeprefix(">"))
    for ending in (".gz", ".bz2", ".mrc", ".mrcs", ".tif", ".tiff", ".eer"):
        stem = stem.removesuffix(ending)
    return _MOTION_SUFFIX.sub("", stem) or stem


@dataclass(frozen=True)
class Agreement:
    """How positions of the same N rows in two files compare.

    Attributes
    ----------
    wrong : (N,) bool
        Rows that lie elsewhere.
    distance_px : (N,) float64
        How far, in pixels; infinite on another micrograph.
    note : str or None
        How the two files count differently, where that explains all of it.
    """

    wrong: npt.NDArray[np.bool_]
    distance_px: Float64Array
    note: str | None = None


def compare_positions(mine: Positions, theirs: Positions) -> Agreement:
    """Compare the positions of the same N rows in two files.

    Files may count pixels of another size (binned micrographs), or y from the other edge: when one factor or one
    mirror line explains every row, the rows agree, and a note says so.
    """
    same_micrograph = mine.names() == theirs.names()
    if not same_micrograph.any() and len(set(mine.names())) > 1:
        # Renamed throughout: the names may tell nothing, but a one-to-one relation does.
        same_micrograph = one_to_one(mine.micrograph, theirs.micrograph)
    distance = np.where(same_micrograph, np.linalg.norm(mine.xy_px - theirs.xy_px, axis=1), np.inf)
    wrong = distance > SAME_POSITION_PX
    if not wrong.any() or not same_micrograph.all() or len(distance) < _FEWEST_FOR_A_FIT:
        return Agreement(wrong, distance)
    for factor, mirrored in _relations(mine.xy_px, theirs.xy_px):
        other = theirs.xy_px * factor
        note = "" if factor == 1 else f"count pixels {1 / factor:.4g} times as large as those of the reference"
        if mirrored:
            edge = float(np.median(mine.xy_px[:, 1] + other[:, 1]))
            other = np.stack([other[:, 0], edge - other[:, 1]], axis=1)
            note += f"{' and ' if note else ''}count y from the other edge (mirror line at {edge / 2:.0f} px)"
        left = np.linalg.norm(mine.xy_px - other, axis=1)
        if np.all(left <= SAME_POSITION_PX * max(factor, 1.0)):
            return Agreement(np.zeros(len(left), bool), left, note)
    return Agreement(wrong, distance)


def _relations(mine: Float64Array, theirs: Float64Array) -> list[tuple[float, bool]]:
    x = theirs[:, 0]
    factor = float(np.dot(mine[:, 0], x) / np.dot(x, x)) if np.any(x) else 1.0
    factors = [1.0] if abs(factor - 1) < 0.005 or not 0.05 < factor < 20 else [1.0, factor]
    return [(one, mirrored) for one in factors for mirrored in (False, True)]


def one_to_one(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return (N,) whether numbers (N,) of the same rows in two files are each other's, one to one: of all or none."""
    pairs = np.unique(np.stack([a, b], axis=1), axis=0)
    good = len(np.unique(pairs[:, 0])) == len(pairs) == len(np.unique(pairs[:, 1]))
    return np.full(len(a), good)

"""From where particles were seen: whether a part of them has the views of the whole.

A selection that has other views than the rest may be one of views and not of structures, and its map is blurred along
the views that it lacks. Directions are counted in bins of equal area (HEALPix; Gorski et al. 2005); a view and the one
from the opposite side show the same but for a mirror, and share a bin.
"""

from __future__ import annotations

from dataclasses import dataclass

import healpix
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
#: Particles of the smaller part in a bin, on average: with fewer the test of independence is not to be trusted
#: (Cochran 1954 asks for 5).
FEWEST_IN_A_BIN = 5
FINEST = 16  # divisions of a side of HEALPix: bins of 3.7 degrees
SIGNIFICANT = 0.001


@dataclass(frozen=True)
class ViewCoverage:
    """How the views of a part compare with those of the rest.

    Attributes
    ----------
    covered : float
        Share of the whole whose views the part has, in 0..1.
    exchanged : float
        Share of the part that would have to be seen from elsewhere to have the views of the rest, in 0..1, without what
        chance alone makes of it.
    p_value : float
        Of as large a difference if views had nothing to do with the choice.
    bins : int
        Number of directions that were told apart.
    """

    covered: float
    exchanged: float
    p_value: float
    bins: int

    @property
    def is_different(self) -> bool:
        """Whether the part has other views than the rest."""
        return self.p_value < SIGNIFICANT


def view_bins(rot_deg: FloatArray, tilt_deg: FloatArray, divisions: int) -> NDArray[np.int64]:
    """(N,) bin of each direction, the same for opposite ones.

    Parameters
    ----------
    rot_deg, tilt_deg : ndarray
        (N,) azimuth and angle to the axis of the viewing directions, degrees.
    divisions : int
        ``nside`` of HEALPix.
    """
    rot, tilt = np.radians(rot_deg), np.radians(tilt_deg)
    x, y, z = np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)
    here, opposite = (
        np.asarray(healpix.ang2pix(divisions, np.arccos(np.clip(s * z, -1, 1)), np.arctan2(s * y, s * x)))
        for s in (1, -1)
    )
    bins: NDArray[np.int64] = np.minimum(here, opposite).astype(np.int64)
    return bins


def view_coverage(rot_deg: FloatArray, tilt_deg: FloatArray, chosen: NDArray[np.bool_]) -> ViewCoverage | None:
    """Compare the views of chosen particles with those of the others.

    Parameters
    ----------
    rot_deg, tilt_deg : ndarray
        (N,) viewing directions of all, degrees.
    chosen : ndarray
        (N,) bool.

    Returns
    -------
    ViewCoverage or None
        None where one of both parts is too small to say anything.
    """
    n, rest = int(chosen.sum()), int((~chosen).sum())
    divisions = 1
    while divisions < FINEST and 6 * (2 * divisions) ** 2 * FEWEST_IN_A_BIN <= min(n, rest):
        divisions *= 2
    if min(n, rest) < 6 * FEWEST_IN_A_BIN:
        return None
    _, bins = np.unique(view_bins(rot_deg, tilt_deg, divisions), return_inverse=True)
    table = np.stack([np.bincount(bins[part], minlength=int(bins.max()) + 1) for part in (chosen, ~chosen)])
    if table.shape[1] < 2:
        return ViewCoverage(1.0, 0.0, 1.0, 1)
    from scipy.stats import chi2_contingency

    whole = table.sum(axis=0)
    test = chi2_contingency(table, correction=False)
    differing = 0.5 * float(np.abs(table[0] / n - table[1] / rest).sum())
    # Chance and true differences add up in squares; the statistic's mean by chance is its degrees of freedom.
    true = max(1.0 - test.dof / test.statistic, 0.0) if test.statistic > 0 else 0.0
    covered = float(whole[table[0] > 0].sum() / whole.sum())
    return ViewCoverage(covered, float(differing * true**0.5), float(test.pvalue), table.shape[1])

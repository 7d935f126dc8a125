"""How long the reconstruction of a selection takes, told beforehand from those that were made."""

from __future__ import annotations

#: A reconstruction of no more is made without being asked for.
AT_ONCE_S = 5.0
#: Before any was made: of one busy core, at boxes of 32 to 160 voxels.
SECONDS_PER_STEP = 3e-8
#: Steps per voxel of the box: two half-maps and the map of all, on a grid oversampled twice, and their FSC.
STEPS_PER_VOXEL = 100.0


class Pace:
    """Seconds that reconstructions take, by the latest of them.

    What is to be done is counted in steps: coefficients that are inserted, and voxels that are solved for.
    """

    def __init__(self) -> None:
        self._seconds_per_step = SECONDS_PER_STEP
        self._is_warm = False

    def seconds(self, n: int, box: int, copies: int = 1) -> float:
        """Of a reconstruction of ``n`` particles in a box of voxels, each inserted ``copies`` times (symmetry)."""
        return _steps(n, box, copies) * self._seconds_per_step

    def measured(self, seconds: float, n: int, box: int, copies: int = 1) -> None:
        """Take note of how long one has taken; not of the first, for which code is compiled and files are read."""
        if not self._is_warm:
            self._is_warm = True
            return
        self._seconds_per_step = seconds / _steps(n, box, copies)


def _steps(n: int, box: int, copies: int) -> float:
    return n * copies * float(box) ** 2 + STEPS_PER_VOXEL * float(box) ** 3

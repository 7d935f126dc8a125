"""Facts about each image, kept beside its coefficients, and which images they show to be useless."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Columns of :attr:`ImageStatistics.values`.
COLUMNS = ("mean", "sd", "slope", "peak", "repaired", "status")


class Status(IntEnum):
    """Whether an image can be used, and if not, why."""

    USABLE = 0
    CONSTANT = 1
    NOT_FINITE = 2
    DESTROYED = 3

    @property
    def reason(self) -> str:
        """A few words for the user."""
        return _REASONS[self]


_REASONS = {
    Status.USABLE: "usable",
    Status.CONSTANT: "constant background",
    Status.NOT_FINITE: "pixels that are not finite numbers",
    Status.DESTROYED: "destroyed: too many outlier pixels, or values beyond all measure",
}


@dataclass(frozen=True)
class ImageStatistics:
    """Findings on each image.

    Attributes
    ----------
    values : ndarray
        (N, 6) float32. Mean of the background at the box centre and standard deviation of it about its plane, both in
        the units of the files; change of the plane over half a box, and farthest pixel from it, in these standard
        deviations; number of outlier pixels that were found; :class:`Status`.
    """

    values: NDArray[np.float32]

    def column(self, name: str) -> NDArray[np.float32]:
        """(N,) one of :data:`COLUMNS`."""
        return self.values[:, COLUMNS.index(name)]

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.values)

    @property
    def unusable(self) -> NDArray[np.bool_]:
        """(N,) images that take no part in anything that is learnt."""
        return np.asarray(self.column("status") != Status.USABLE)

    @property
    def repaired(self) -> NDArray[np.bool_]:
        """(N,) usable images some pixels of which were replaced."""
        return (self.column("repaired") > 0) & ~self.unusable

    def reason(self, row: int) -> str:
        """Words why an image is not usable."""
        return Status(int(self.column("status")[row])).reason

    def subset(self, rows: NDArray[np.integer]) -> ImageStatistics:
        """Those of some images."""
        return ImageStatistics(self.values[rows])


def statistics_of(mean: Tensor, sd: Tensor, slope: Tensor, peak: Tensor, repaired: Tensor, status: Tensor) -> Tensor:
    """(B, 6) float32 of (B,) columns; 0 in the place of what is not finite."""
    columns = torch.stack([value.float() for value in (mean, sd, slope, peak, repaired, status)], dim=1)
    return torch.nan_to_num(columns, posinf=0.0, neginf=0.0)


@dataclass(frozen=True)
class Remark:
    """One thing that was found in some images.

    Attributes
    ----------
    name : str
        As in the table of remarks.
    words : str
        For a sentence.
    rows : ndarray
        (n,) int64, increasing.
    """

    name: str
    words: str
    rows: NDArray[np.int64]

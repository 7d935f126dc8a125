"""Maps compared within a mask: how much is there in each, how alike they are there, and how far half-maps agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.analysis.masked_density import solid_density
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.fsc import corrected_fsc, resolution_A
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.reconstruction.half_maps import GOLD_STANDARD_FSC


@dataclass(frozen=True)
class WithinMask:
    """A map within a mask.

    Attributes
    ----------
    name : str
    density : float
        Mean within the mask; 1 is what this map has where it is particle, 0 is solvent.
    correlation : float
        With the first map, over the voxels of the mask, weighted by it.
    resolution_A : float or None
        Where the FSC of its half-maps within the mask falls below 0.143, corrected for the mask by randomised phases;
        None for maps without half-maps.
    """

    name: str
    density: float
    correlation: float
    resolution_A: float | None


def compare_within(mask: NDArray[np.float32], maps: Sequence[tuple[Path, str]]) -> list[WithinMask]:
    """Compare maps within a mask (D, D, D): each a file, with a name that says what it is.

    Raises
    ------
    InputError
        When there are none, or one has another grid than the mask.
    """
    if not maps:
        raise InputError("show a map first: there is none to look at within the mask.")
    found: list[WithinMask] = []
    first: NDArray[np.float32] | None = None
    for path, name in maps:
        shown = read_map(path)
        if shown.data.shape != mask.shape:
            raise InputError(f"{name} has {shown.box_size} voxels, but the mask {len(mask)}: they do not go together.")
        first = shown.data if first is None else first
        mean = float((shown.data * mask).sum(dtype=np.float64) / mask.sum(dtype=np.float64))
        found.append(
            WithinMask(
                name, round(mean / solid_density(shown.data), 4), round(_correlation(first, shown.data, mask), 4),
                _resolution(path, mask, shown.pixel_size_A),
            )
        )  # fmt: skip
    return found


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32], mask: NDArray[np.float32]) -> float:
    inside = mask > 0
    weight = mask[inside].astype(np.float64)
    covariance = np.cov(a[inside], b[inside], aweights=weight)
    size = float(np.sqrt(covariance[0, 0] * covariance[1, 1]))
    return float(covariance[0, 1]) / size if size > 0 else 0.0


def _resolution(path: Path, mask: NDArray[np.float32], pixel_size_A: float) -> float | None:
    """Of the half-maps that lie beside a map, under one of the two ways in which this program names them."""
    stem = "" if path.name == "map.mrc" else f"{path.stem}_"
    halves = [path.with_name(f"{stem}half{number}.mrc") for number in (1, 2)]
    if not all(half.is_file() for half in halves):
        return None
    data = [torch.from_numpy(read_map(half).data) for half in halves]
    if any(one.shape != mask.shape for one in data):
        return None
    curve = corrected_fsc(data[0], data[1], torch.from_numpy(mask))
    reached = resolution_A(curve, pixel_size_A, len(mask), GOLD_STANDARD_FSC)
    return round(reached, 2) if np.isfinite(reached) else None

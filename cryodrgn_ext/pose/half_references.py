"""References that each half of the particles is aligned to: its own map, Wiener-filtered by the FSC between the halves.

The halves are independent but for the lowest frequencies, shared so that their coordinates do not drift apart,
and which say nothing of resolution (RELION's ``--low_resol_join_halves``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.fourier.fsc import fsc
from cryodrgn_ext.fourier.masks import default_threshold, threshold_mask
from cryodrgn_ext.fourier.shells import apply_radial_weights
from cryodrgn_ext.reconstruction.backprojection import BackprojectionSums, wiener_precision

#: Shells (cycles per box) up to which the halves share their map.
JOINED_RADIUS = 5
#: FSC up to which frequencies are used for alignment.
USED_FSC = 0.143
#: Density above this fraction of the 99.99th percentile is the particle's, at the low resolution of the mask.
MASK_LEVEL = 0.15
#: The mask reaches this far beyond the density, and then falls off over as much, as fractions of the box.
MASK_MARGIN, MASK_EDGE = 0.06, 0.06
#: Frequencies (fraction of the resolved ones) from which the mask is made: it should not follow detail.
MASK_BAND = 0.5


@dataclass(frozen=True)
class References:
    """Two references and how far they agree.

    Attributes
    ----------
    half1, half2 : Tensor
        (D, D, D) masked, filtered maps.
    fsc : ndarray
        (D // 2 + 1,) between the masked, unfiltered half-maps.
    radius : float
        Shell where the FSC falls below 0.143, in cycles per box.
    mask : Tensor
        (D, D, D) soft mask that was applied.
    """

    half1: Tensor
    half2: Tensor
    fsc: NDArray[np.float64]
    radius: float
    mask: Tensor

    def of(self, half: int) -> Float[Tensor, "D D D"]:
        """Reference of half-set 1 or 2."""
        return self.half1 if half == 1 else self.half2


def resolved_radius(curve: Float[np.ndarray, " shells"], threshold: float = USED_FSC) -> float:
    """Shell where a curve first falls below ``threshold``, linear between shells; the last one if it never does."""
    below = np.flatnonzero(curve[2:] < threshold)  # the first shells are shared, or hold no more than the means
    if len(below) == 0:
        return float(len(curve) - 1)
    s = int(below[0]) + 2
    above = float(curve[s - 1])
    if above <= threshold:
        return float(s - 1)
    return s - 1 + (above - threshold) / (above - float(curve[s]))


def make_references(sums1: BackprojectionSums, sums2: BackprojectionSums, sphere: Float[Tensor, "D D D"]) -> References:
    """Filter and mask the maps of two halves.

    Parameters
    ----------
    sums1, sums2 : BackprojectionSums
        Of the half-sets.
    sphere : Tensor
        (D, D, D) soft sphere that the particle lies in.
    """
    d, limit = sums1.grid.box_size, sums1.grid.radius
    raw1, raw2 = sums1.solve(), sums2.solve()
    curve = _curve(raw1, raw2, sphere, limit)
    mask = _particle_mask(raw1 + raw2, resolved_radius(curve), sphere)
    curve = _curve(raw1, raw2, mask, limit)
    # The precision is that of all data; a half has half the weight, and as much signal.
    precision = wiener_precision(sums1 + sums2, torch.from_numpy(curve))
    one, two = sums1.solve(precision), sums2.solve(precision)
    joined = torch.zeros(d // 2 + 1)
    joined[: min(JOINED_RADIUS, d // 2) + 1] = 0.5
    shared = apply_radial_weights(two - one, joined.to(one.device))
    radius = min(resolved_radius(curve), float(limit))
    return References((one + shared) * mask, (two - shared) * mask, curve, radius, mask)


def _curve(one: Tensor, two: Tensor, mask: Tensor, limit: int) -> NDArray[np.float64]:
    curve = fsc(one, two, mask)
    curve[limit + 1 :] = 0.0  # nothing was measured there
    return curve


def _particle_mask(both: Tensor, radius: float, sphere: Tensor) -> Tensor:
    """Soft mask around the density at half the resolution, within the sphere."""
    d = len(both)
    shells = torch.arange(d // 2 + 1, dtype=torch.float32)
    cut = max(3.0, MASK_BAND * radius)
    smooth = apply_radial_weights(both * sphere, torch.exp(-((shells / cut) ** 2)).to(both.device))
    level = 2.0 * MASK_LEVEL * default_threshold(smooth)
    if not level > 0:  # no positive density, as in a map of noise: nothing to cut out
        return sphere
    return threshold_mask(smooth, 1.0, level, MASK_MARGIN * d, MASK_EDGE * d) * sphere

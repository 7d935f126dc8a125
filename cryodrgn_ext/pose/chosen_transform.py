"""The coordinates of an ab initio result: hand, centre, and orientation when there is a map to go by.

Images fix a map but for a rotation, a shift and the hand. Without a reference the map stays as it was found, with its
centre of mass in the centre of the box, and ``--flip_hand`` mirrors it; with one it is brought onto that. Poses go
along, and all maps are reconstructed from them afterwards: nothing is ever interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from cryodrgn_ext.images.maps import VolumeMap
from cryodrgn_ext.pose.centring import centre_of_mass
from cryodrgn_ext.pose.coordinate_transform import CoordinateTransform
from cryodrgn_ext.pose.map_alignment import align_maps, fit_to_box

#: Bounds of the band (cycles per box) in which a map is compared with the reference.
ALIGNMENT_RADII = (6, 32)
LEAST_FSC = 0.143
#: Correlation with the reference below which the alignment is not to be trusted, and the lead that a hand should have.
POOR_CORRELATION, SIGNIFICANT_LEAD = 0.3, 0.02


@dataclass(frozen=True)
class ChosenTransform:
    """A coordinate transform and why it was chosen.

    Attributes
    ----------
    transform : CoordinateTransform
        From the coordinates in which poses were found, in voxels of the working box.
    correlation, other_hand : float or None
        With the reference, of the hand that was chosen and of the other; None without a reference.
    """

    transform: CoordinateTransform
    correlation: float | None = None
    other_hand: float | None = None

    def sentence(self) -> str:
        """One sentence for the user."""
        if self.correlation is None:
            hand = "the mirror image of what was found (--flip_hand)" if self.transform.mirrored else "as it was found"
            return (
                f"The hand of the map is {hand}: images cannot tell it. Look at helices or a known structure, and "
                "continue the job with the other --flip_hand where it is wrong; that takes seconds."
            )
        hands = f"correlation {self.correlation:.3f}, the other hand at its best {self.other_hand or 0.0:.3f}"
        if self.correlation < POOR_CORRELATION:
            return f"Warning: the result hardly agrees with --in_3dref ({hands}): its orientation and hand mean little."
        if self.correlation - (self.other_hand or 0.0) < SIGNIFICANT_LEAD:
            return f"The result lies on --in_3dref, but both hands agree with it about equally ({hands})."
        return f"The result lies on --in_3dref and has its hand ({hands})."


def choose_transform(
    found: Float[np.ndarray, "D D D"],
    pixel_size_A: float,
    curve: Float[np.ndarray, " shells"],
    reference: VolumeMap | None,
    flip_hand: bool,
) -> ChosenTransform:
    """Decide on the coordinates of a map that was found ab initio.

    Parameters
    ----------
    found : ndarray
        (D, D, D) map in the coordinates of the poses.
    pixel_size_A : float
    curve : ndarray
        (D // 2 + 1,) FSC between the halves of the map.
    reference : VolumeMap or None
    flip_hand : bool
        Mirror the map, when there is no reference.
    """
    volume = torch.from_numpy(np.asarray(found, np.float32))
    if reference is not None:
        target = fit_to_box(torch.from_numpy(reference.data), reference.pixel_size_A, len(found), pixel_size_A)
        below = np.flatnonzero(curve[1:] < LEAST_FSC)
        shell = int(below[0]) if len(below) else len(curve) - 1
        radius = int(np.clip(shell, *ALIGNMENT_RADII))
        bounded = np.clip(curve, LEAST_FSC, 1.0)
        # The correlation of the full map with the truth (Rosenthal & Henderson 2003).
        alignment = align_maps(volume, target, radius, reliability=np.sqrt(2 * bounded / (1 + bounded)))
        return ChosenTransform(alignment.transform, alignment.correlation, alignment.other_hand)
    hand = CoordinateTransform.identity(flip_hand)
    return ChosenTransform(CoordinateTransform(hand.rotation, -hand.points(centre_of_mass(volume).numpy()), flip_hand))

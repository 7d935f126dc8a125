"""The frame of an ab initio result: its hand, its centre, and its orientation when there is a map to go by.

Images fix a map but for a rotation, a shift and the hand. Without a reference the map stays as it was found, with its
centre of mass in the centre of the box, and ``--flip_hand`` mirrors it; with one it is brought onto that. Poses go
along, and all maps are reconstructed from them afterwards: nothing is ever interpolated.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.durable_files import atomic_write_text
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.maps import VolumeMap
from cryodrgn_ext.pose.centring import centre_of_mass
from cryodrgn_ext.pose.map_alignment import align_maps, fit_to_box
from cryodrgn_ext.pose.metrics import CoordinateTransform

#: Bounds of the band (cycles per box) in which a map is compared with the reference.
ALIGNMENT_RADII = (6, 32)
LEAST_FSC = 0.143
#: Correlation with the reference below which the alignment is not to be trusted, and the lead that a hand should have.
POOR_CORRELATION, CLEAR_LEAD = 0.3, 0.02


@dataclass(frozen=True)
class ChosenTransform:
    """What was decided.

    Attributes
    ----------
    change : CoordinateTransform
        From the frame in which poses were found, in voxels of the working box.
    correlation, other_hand : float or None
        With the reference, of the hand that was chosen and of the other; None without a reference.
    """

    change: CoordinateTransform
    correlation: float | None = None
    other_hand: float | None = None

    def sentence(self) -> str:
        """What the user should know of it."""
        if self.correlation is None:
            hand = "the mirror image of what was found (--flip_hand)" if self.change.mirrored else "as it was found"
            return (
                f"The hand of the map is {hand}: images cannot tell it. Look at helices or a known structure, and "
                "continue the job with the other --flip_hand where it is wrong; that takes seconds."
            )
        hands = f"correlation {self.correlation:.3f}, the other hand at its best {self.other_hand or 0.0:.3f}"
        if self.correlation < POOR_CORRELATION:
            return f"Warning: the result hardly agrees with --in_3dref ({hands}): its frame and hand mean little."
        if self.correlation - (self.other_hand or 0.0) < CLEAR_LEAD:
            return f"The result lies on --in_3dref, but both hands agree with it about equally ({hands})."
        return f"The result lies on --in_3dref and has its hand ({hands})."

    def write(self, path: Path) -> None:
        """Write as JSON, atomically."""
        plain = asdict(self)
        plain["change"] = {
            "rotation": self.change.rotation.tolist(), "shift_px": self.change.shift_px.tolist(),
            "mirrored": self.change.mirrored,
        }  # fmt: skip
        atomic_write_text(path, json.dumps(plain))

    @classmethod
    def read(cls, path: Path) -> ChosenTransform:
        """Read what :meth:`write` wrote.

        Raises
        ------
        InputError
            When it is missing or damaged.
        """
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            change = plain["change"]
            rotation, shift = np.array(change["rotation"], np.float64), np.array(change["shift_px"], np.float64)
            return cls(CoordinateTransform(rotation, shift, bool(change["mirrored"])), plain["correlation"],
                       plain["other_hand"])  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be read ({error}): delete it and continue the job.") from None


def choose_transform(
    found: NDArray[np.float32],
    pixel_size_A: float,
    curve: NDArray[np.float64],
    reference: VolumeMap | None,
    flip_hand: bool,
) -> ChosenTransform:
    """Decide on the frame of a map that was found ab initio.

    Parameters
    ----------
    found : ndarray
        (D, D, D) map in the frame of the poses.
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
        return ChosenTransform(alignment.change, alignment.correlation, alignment.other_hand)
    hand = CoordinateTransform.identity(flip_hand)
    return ChosenTransform(CoordinateTransform(hand.rotation, -hand.points(centre_of_mass(volume).numpy()), flip_hand))

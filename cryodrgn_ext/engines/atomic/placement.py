"""Placing an atomic structure into the frame of a map: all rotations and shifts, both hands, then refined.

The structure is rendered as a sum of Gaussians, one for each residue's main chain and side chain, and brought onto the
map by :func:`cryodrgn_ext.pose.map_alignment.align_maps`. What is compared is the shape beyond low resolution: both are
whitened shell by shell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from cryodrgn_ext.atoms.structure import Structure, residue_centres, residue_widths
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.gaussians import gaussian_map
from cryodrgn_ext.pose.map_alignment import MapAlignment, align_maps

#: Å³ that an electron of a protein's heavy atoms stands for: 1.21 Å³ a dalton, about 2 daltons an electron.
VOLUME_PER_ELECTRON_A3 = 2.4
#: Standard deviations by which the better hand must lead: what the mirror image reaches is what chance and the overall
#: shape reach with as many tries.
LEAST_LEAD = 3.0


@dataclass(frozen=True)
class Placement:
    """Where a structure lies in a map's frame.

    Attributes
    ----------
    rotation : ndarray
        (3, 3) float64, from the coordinates of the file to those of the map.
    shift_A : ndarray
        (3,) float64, x, y, z: a point p goes to rotation @ p + shift_A, in Å from the centre of the box.
    correlation : float
        Of the whitened transforms of structure and map, within the band.
    other_hand : float
        The same of the mirrored structure, wherever it fits best.
    """

    rotation: NDArray[np.float64]
    shift_A: NDArray[np.float64]
    correlation: float
    other_hand: float

    def points(self, points: Float[np.ndarray, "*batch 3"]) -> NDArray[np.float64]:
        """Where points (..., 3) of the file go, in Å from the centre of the box."""
        moved: NDArray[np.float64] = points @ self.rotation.T + self.shift_A
        return moved

    def sentence(self) -> str:
        """Say how well it fits."""
        return (
            f"The structure lies in the map with a correlation of {self.correlation:.2f}; its mirror image reaches "
            f"{self.other_hand:.2f}."
        )


def place_structure(structure: Structure, volume: NDArray[np.float32], pixel_size_A: float, radius: int) -> Placement:
    """Find where a structure lies in a map.

    Parameters
    ----------
    structure : Structure
    volume : ndarray
        (D, D, D) map, axes z, y, x.
    pixel_size_A : float
    radius : int
        Largest |k| compared, in cycles per box: the map's resolution; at most half of Nyquist.

    Raises
    ------
    InputError
        When it does not fit better than chance, when its mirror image fits better, or when it exceeds the box.
    """
    box = len(volume)
    centres, electrons, _ = residue_centres(structure)
    middle = centres.mean(axis=0)
    extent = float(2 * np.linalg.norm(centres - middle, axis=1).max())
    if extent > box * pixel_size_A:
        raise InputError(
            f"the structure is {extent:.0f} Å across and the box of the map only {box * pixel_size_A:.0f} Å: give the "
            "structure of what the images show, or train in a larger box."
        )
    rendered = gaussian_map(
        box,
        torch.from_numpy((centres - middle) / pixel_size_A).float(),
        torch.from_numpy(electrons).float(),
        torch.from_numpy(residue_widths(structure) / pixel_size_A).float(),
    )
    radius = min(radius, box // 4)
    found = align_maps(rendered, torch.from_numpy(volume), radius)
    share = min(1.0, VOLUME_PER_ELECTRON_A3 * electrons.sum() / (box * pixel_size_A) ** 3)
    _check(found, share * 4 / 3 * np.pi * radius**3)
    rotation, correlation = found.transform.rotation, found.correlation
    return Placement(rotation, found.transform.shift_px * pixel_size_A - rotation @ middle, correlation,
                     found.other_hand or 0.0)  # fmt: skip


def _check(found: MapAlignment, independent: float) -> None:
    """Refuse a fit that does not exceed chance by its number of ``independent`` values, and the other hand."""
    other = found.other_hand or 0.0
    lead = (np.arctanh(min(found.correlation, 1 - 1e-6)) - np.arctanh(other)) * np.sqrt(max(independent, 1.0))
    figures = f"correlation {found.correlation:.2f}, its mirror image {other:.2f}"
    if lead < LEAST_LEAD:
        raise InputError(
            f"the structure does not fit the map ({figures}): give the structure of what the images show, in a state "
            "that is near those of the images, or train at a higher resolution."
        )
    if found.transform.mirrored:
        figures = f"correlation {other:.2f}, mirrored {found.correlation:.2f}"
        raise InputError(
            f"the map has the other hand than the structure ({figures}): turn the poses over, as abinit does with "
            "--flip_hand, and train anew."
        )

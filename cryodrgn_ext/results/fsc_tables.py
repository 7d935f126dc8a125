"""fsc.star: FSC curves as RELION's postprocessing writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.durable_files import atomic_write_text
from cryodrgn_ext.metadata.own_tables import own_star_text

CORRECTED = "rlnFourierShellCorrelationCorrected"
UNMASKED = "rlnFourierShellCorrelationUnmaskedMaps"
MASKED = "rlnFourierShellCorrelationMaskedMaps"


def write_fsc_star(path: Path, curve: NDArray[np.floating], pixel_size_A: float, box_size: int, masked: bool) -> None:
    """Write an FSC curve as RELION's postprocessing does (data_fsc), atomically.

    The column says what was correlated, masked or unmasked maps: "corrected" means by phase randomisation in RELION.

    Parameters
    ----------
    path : Path
    curve : ndarray
        (S,) FSC of shells 0 .. S - 1.
    pixel_size_A : float
    box_size : int
        Of the maps, in voxels.
    masked : bool
        Whether the maps were multiplied by a mask.
    """
    write_fsc_table(path, {MASKED if masked else UNMASKED: curve}, pixel_size_A, box_size)


def write_fsc_table(path: Path, curves: Mapping[str, NDArray[np.floating]], pixel_size_A: float, box_size: int) -> None:
    """Write FSC curves of the same maps as columns of one table, as RELION's postprocessing does, atomically.

    Parameters
    ----------
    path : Path
    curves : mapping
        RELION's label of each column (:data:`CORRECTED`, :data:`UNMASKED`, :data:`MASKED`) to (S,) FSC of shells
        0 .. S - 1.
    pixel_size_A : float
    box_size : int
        Of the maps, in voxels.
    """
    shell = np.arange(len(next(iter(curves.values()))))
    per_A = shell / (box_size * pixel_size_A)
    columns = {
        "rlnSpectralIndex": shell,
        "rlnResolution": per_A,
        "rlnAngstromResolution": np.where(shell == 0, 999.0, 1 / np.where(shell == 0, 1.0, per_A)),
    }
    atomic_write_text(path, own_star_text({"fsc": columns | dict(curves)}))

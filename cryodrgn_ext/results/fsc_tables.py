"""fsc.star: FSC curves as RELION's postprocessing writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.durable_files import atomic_write_text

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
    lines = ["", "# version 30001", "", "data_fsc", "", "loop_", "_rlnSpectralIndex #1", "_rlnResolution #2",
             "_rlnAngstromResolution #3"]  # fmt: skip
    lines += [f"_{label} #{column}" for column, label in enumerate(curves, start=4)]
    for shell, values in enumerate(zip(*(curve.tolist() for curve in curves.values()), strict=True)):
        per_A = shell / (box_size * pixel_size_A)
        angstrom = 999.0 if shell == 0 else 1 / per_A
        numbers = " ".join(f"{value:12.6f}" for value in values)
        lines.append(f"{shell:12d} {per_A:12.6f} {angstrom:12.6f} {numbers}")
    atomic_write_text(path, "\n".join(lines) + "\n\n")

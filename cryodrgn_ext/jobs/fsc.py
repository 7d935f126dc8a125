"""The job that compares two maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.atomic import atomic_write_text
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.maps import VolumeMap, read_map
from cryodrgn_ext.imaging.fsc import fsc as shell_correlation
from cryodrgn_ext.imaging.fsc import resolution_A
from cryodrgn_ext.jobs.options.fsc import FscSettings
from cryodrgn_ext.jobs.outputs import JobResult
from cryodrgn_ext.progress import Monitor

THRESHOLDS = (0.5, 0.143)
PIXEL_TOLERANCE = 1e-3
CORRECTED = "rlnFourierShellCorrelationCorrected"
UNMASKED = "rlnFourierShellCorrelationUnmaskedMaps"
MASKED = "rlnFourierShellCorrelationMaskedMaps"


def fsc(settings: FscSettings, monitor: Monitor) -> JobResult:
    """Print (and write) the Fourier shell correlation of two maps, and the resolutions at 0.5 and 0.143.

    Parameters
    ----------
    settings : FscSettings
    monitor : Monitor

    Raises
    ------
    InputError
        When a file is not a cubic map, or boxes or pixel sizes differ.
    """
    first, second = read_map(settings.map1), read_map(settings.map2)
    _check_alike(settings.map1, first, settings.map2, second)
    mask = None
    if settings.mask is not None:
        mask_map = read_map(settings.mask)
        _check_alike(settings.map1, first, settings.mask, mask_map)
        mask = torch.from_numpy(mask_map.data)
    pixel_size_A = first.pixel_size_A or second.pixel_size_A
    if pixel_size_A <= 0:
        raise InputError(f"{settings.map1} and {settings.map2} have no pixel size in their headers: set it first.")
    curve = shell_correlation(torch.from_numpy(first.data), torch.from_numpy(second.data), mask)
    if settings.o is not None:
        write_fsc_star(settings.o, curve, pixel_size_A, first.box_size, mask is not None)
    for shell in range(1, len(curve)):
        monitor.message(f"{shell:5d}  {first.box_size * pixel_size_A / shell:9.3f} A  {curve[shell]:8.5f}")
    for threshold in THRESHOLDS:
        found = resolution_A(curve, pixel_size_A, first.box_size, threshold)
        monitor.message(f"Resolution at FSC = {threshold}: {found:.3f} A")
    monitor.message(f"Mean FSC of shells 1 to Nyquist: {float(np.mean(curve[1:])):.5f}")
    return JobResult(Path() if settings.o is None else settings.o.parent, ())


def _check_alike(path1: Path, map1: VolumeMap, path2: Path, map2: VolumeMap) -> None:
    if map1.box_size != map2.box_size:
        raise InputError(f"{path1} has a box of {map1.box_size} voxels, but {path2} has {map2.box_size}.")
    sizes = (map1.pixel_size_A, map2.pixel_size_A)
    if min(sizes) > 0 and abs(sizes[0] - sizes[1]) > PIXEL_TOLERANCE * sizes[0]:
        raise InputError(f"{path1} has voxels of {sizes[0]:.4f} Å, but {path2} of {sizes[1]:.4f} Å.")


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


def write_fsc_table(
    path: Path, curves: Mapping[str, NDArray[np.floating]], pixel_size_A: float, box_size: int
) -> None:
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

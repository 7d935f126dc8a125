"""The job that compares two maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cryodrgn_ext.durable_files import keep_existing
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.fsc import fsc as shell_correlation
from cryodrgn_ext.fourier.fsc import resolution_A
from cryodrgn_ext.images.maps import VolumeMap, read_map
from cryodrgn_ext.options.fsc import FscSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.fsc_tables import write_fsc_star
from cryodrgn_ext.workflow.job_result import JobResult

THRESHOLDS = (0.5, 0.143)
PIXEL_TOLERANCE = 1e-3


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
    mask_map = None if settings.mask is None else read_map(settings.mask)
    mask = None
    if settings.mask is not None and mask_map is not None:
        _check_alike(settings.map1, first, settings.mask, mask_map)
        mask = torch.from_numpy(mask_map.data)
    for given in (first, second, mask_map):
        for note in () if given is None else given.notes:
            monitor.message(f"Note: {note}")
    pixel_size_A = first.pixel_size_A or second.pixel_size_A
    if pixel_size_A <= 0:
        raise InputError(f"{settings.map1} and {settings.map2} have no pixel size in their headers: set it first.")
    curve = shell_correlation(torch.from_numpy(first.data), torch.from_numpy(second.data), mask)
    if settings.o is not None:
        for sentence in keep_existing([settings.o], settings.overwrite):
            monitor.message(f"Note: {sentence}")
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

"""Maps that jobs sharpen: from the half-maps in a folder to sharpened.mrc beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.fsc import corrected_fsc, fsc, resolution_A
from cryodrgn_ext.fourier.sharpening import GuinierFit, sharpen_half_maps
from cryodrgn_ext.images.map_origin import read_origin
from cryodrgn_ext.images.maps import VolumeMap, read_map, write_map
from cryodrgn_ext.results.fsc_tables import CORRECTED, MASKED, UNMASKED

SHARPENED_NAME = "sharpened.mrc"


def half_map_curves(
    half1: NDArray[np.floating],
    half2: NDArray[np.floating],
    mask: NDArray[np.floating],
    masked_fsc: NDArray[np.floating],
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """FSC curves between half-maps by RELION's label: corrected for the mask, unmasked and masked.

    Parameters
    ----------
    half1, half2, mask : ndarray
        (D, D, D).
    masked_fsc : ndarray
        (D // 2 + 1,) in the mask; 0 beyond the images' band, where the others are then 0 too.
    seed : int
        Of the randomised phases.
    """  # fmt: skip
    first, second = torch.from_numpy(half1), torch.from_numpy(half2)
    curves = {
        CORRECTED: corrected_fsc(first, second, torch.from_numpy(mask), seed),
        UNMASKED: fsc(first, second),
        MASKED: np.array(masked_fsc, np.float64),
    }
    beyond = np.flatnonzero(masked_fsc == 0.0)
    for curve in curves.values():
        curve[beyond] = 0.0
    return curves


def sharpened(
    folder: Path, curve: NDArray[np.float64], b_factor_A2: float | None
) -> tuple[VolumeMap, GuinierFit | None] | None:
    """Sharpen the half1.mrc and half2.mrc of a folder, see :func:`sharpen_half_maps`.

    Parameters
    ----------
    folder : Path
    curve : ndarray
        (D // 2 + 1,) FSC between them.
    b_factor_A2 : float or None
        That of the Guinier plot when None.

    Returns
    -------
    (VolumeMap, GuinierFit or None) or None
        None when no B-factor is given and the resolution does not allow a Guinier plot.
    """
    half1, half2 = read_map(folder / "half1.mrc"), read_map(folder / "half2.mrc")
    resolution = resolution_A(curve, half1.pixel_size_A, half1.box_size)
    try:
        volume, fit = sharpen_half_maps(torch.from_numpy(half1.data), torch.from_numpy(half2.data), curve,
                                        half1.pixel_size_A, resolution, b_factor_A2)  # fmt: skip
    except InputError:
        return None
    return replace(half1, data=volume.numpy()), fit


def write_sharpened(
    folder: Path, curve: NDArray[np.float64], b_factor_A2: float | None
) -> tuple[GuinierFit | None, str]:
    """Write sharpened.mrc, see :func:`sharpened`; return the Guinier plot, if there is one, and a sentence."""
    found = sharpened(folder, curve, b_factor_A2)
    if found is None:
        (folder / SHARPENED_NAME).unlink(missing_ok=True)
        return None, "not sharpened, as its resolution leaves no Guinier plot beyond 10 Å"
    volume, fit = found
    origin = read_origin(folder / ("map.mrc" if (folder / "map.mrc").is_file() else "half1.mrc"))
    write_map(folder / SHARPENED_NAME, volume.data, volume.pixel_size_A, replace(origin, done="both halves, sharpened"))
    if b_factor_A2 is not None:
        plot = "no Guinier plot beyond 10 Å" if fit is None else f"Guinier plot: {fit.b_factor_A2:.0f} Å²"
        return fit, f"sharpened by the given B-factor of {b_factor_A2:.0f} Å² ({plot})"
    assert fit is not None
    return fit, f"sharpened by the B-factor of the Guinier plot, {fit.b_factor_A2:.0f} Å²"

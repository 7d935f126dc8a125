"""Density within masks as colours: particles that have something there, or lack it, are then chosen.

Three columns for each mask: the density by the model's volume at the particle's own latent, its standard error by the
latent's covariance, and how probable it is that the particle has at least half of what there is on the map on which the
mask was painted, or on the average map.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from cryodrgn_ext.analysis.masked_density import MaskedDensity
from cryodrgn_ext.engines.base import Heterogeneity, Linear, LinearForm
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.explorer.columns import Column
from cryodrgn_ext.explorer.masks import KeptMask
from cryodrgn_ext.explorer.opened_result import OpenedResult
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.images.working_map import working_map
from cryodrgn_ext.workflow.given_maps import check_mask_values

GROUP = "density within masks"
PREFIX = "mask:"
#: Of what the map has there that shows it: half of it is as far from all as from nothing.
SHARE = 0.5


def add_mask(opened: OpenedResult, model: Heterogeneity, kept: KeptMask) -> None:
    """Add the columns of a mask.

    Raises
    ------
    InputError
        When it is no mask of these maps, nothing of it is left at the model's box, or the model's volumes have no
        linear form.
    """
    if not isinstance(model, Linear):
        raise InputError(
            f"densities within masks need a model whose volumes are sums of maps, which that of {opened.given} is not: "
            "train with another --preset or --engine, or import its latents."
        )
    mask = mask_of_model(kept.path, model)
    _add(opened, kept.path.name, cache(partial(_measure, model.linear_form, mask)), kept)


def mask_of_model(path: Path, model: Heterogeneity) -> NDArray[np.float32]:
    """(D, D, D) mask at the box of the model.

    Raises
    ------
    InputError
        When it is no mask of these maps, or nothing of it is left.
    """
    given = read_map(path)
    check_mask_values(given, path)
    mask: NDArray[np.float32] = (
        working_map(given, model.box_size, model.pixel_size_A, f"the mask {path.name}").clamp(0, 1).numpy()
    )
    if not mask.any():
        raise InputError(f"{path}: nothing of this mask is left at the model's box of {model.box_size} voxels.")
    return mask


def _measure(form: Callable[[], LinearForm], mask: NDArray[np.float32]) -> MaskedDensity:
    return MaskedDensity.of(form(), mask)


def _add(opened: OpenedResult, name: str, measured: Callable[[], MaskedDensity], kept: KeptMask) -> None:
    """Add the columns of one mask, whose density is measured when the first of them is asked for."""
    key = f"{PREFIX}{name}"
    density = cache(lambda: measured().at(opened.z))
    covariance = opened.result.require_latents().z_cov
    own = None if covariance is None else covariance[opened.rows]
    error = cache(lambda: np.zeros(opened.n) if own is None else measured().error(opened.z, own))
    opened.columns.add(Column(key, f"density in {name}", GROUP, density))
    if own is not None:
        opened.columns.add(Column(f"{key}:error", f"density in {name}, standard error", GROUP, error))

    def has() -> NDArray[np.float64]:
        whole = measured().average if kept.level is None else kept.level / measured().unit
        return probability(density() - SHARE * whole, error())

    opened.columns.add(Column(f"{key}:has", f"probability of density in {name}", GROUP, has))


def probability(excess: NDArray[np.float64], error: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) of a normal variable of mean ``excess`` and standard deviation ``error`` to be above 0; exact where 0."""
    certain = error <= 0
    found: NDArray[np.float64] = ndtr(excess / np.where(certain, 1.0, error))
    return np.where(certain, (excess >= 0).astype(float), found)

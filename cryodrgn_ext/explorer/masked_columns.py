"""Density within the user's masks as colours: particles that have something there, or lack it, are then chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from cryodrgn_ext.analysis.masked_density import MaskedDensity
from cryodrgn_ext.engines.base import Heterogeneity, Linear
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.explorer.columns import Column
from cryodrgn_ext.explorer.opened_result import OpenedResult
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.images.working_map import working_map
from cryodrgn_ext.workflow.given_maps import check_mask_values

GROUP = "density within masks"


def add_masked_columns(opened: OpenedResult, model: Heterogeneity, masks: Sequence[Path]) -> None:
    """Add two columns for each mask: density within it, and its standard error where latents have one.

    Raises
    ------
    InputError
        When a mask is none of these maps, nothing of it is left at the model's box, or the model's volumes have no
        linear form.
    """
    if not masks:
        return
    if not isinstance(model, Linear):
        raise InputError(
            f"--masks needs a model whose volumes are sums of maps, which that of {opened.given} is not: train with "
            "another --preset or --engine, or import its latents."
        )
    form = model.linear_form()
    for path in masks:
        given = read_map(path)
        check_mask_values(given, path)
        mask = working_map(given, model.box_size, model.pixel_size_A, "--masks").clamp(0, 1).numpy()
        if not mask.any():
            raise InputError(f"{path}: nothing of this mask is left at the model's box of {model.box_size} voxels.")
        _add(opened, path.name, cache(partial(MaskedDensity.of, form, mask)))


def _add(opened: OpenedResult, name: str, measured: Callable[[], MaskedDensity]) -> None:
    """Add the columns of one mask, whose density is measured when the first of them is asked for."""
    key = f"mask:{name}"
    opened.columns.add(Column(key, f"density in {name}", GROUP, lambda: measured().at(opened.z)))
    covariance = opened.result.require_latents().z_cov
    if covariance is not None:
        own = covariance[opened.rows]
        label = f"density in {name}, standard error"
        opened.columns.add(Column(f"{key}:error", label, GROUP, lambda: measured().error(opened.z, own)))

"""Small pictures of the results of jobs, for suites that show images beside them.

Each function draws one png file, from the files of a result or from arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latents import principal_components
from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.report.charts import fsc_curves
from cryodrgn_ext.report.landscape_plots import density_and_energy
from cryodrgn_ext.report.plots import central_slices, latent_by_label, latent_histogram, map_slices
from cryodrgn_ext.report.pose_plots import view_distribution
from cryodrgn_ext.results.landscape_tables import read_surface

DOTS_PER_INCH = 110
# Maps side by side in one picture.
MOST_MAPS = 20


def draw_slices(maps: Mapping[str, Path], path: Path) -> None:
    """Draw central slices of maps side by side, of the first 20, on one grey scale.

    Parameters
    ----------
    maps : mapping
        Name to file.
    path : Path
        The picture.

    Raises
    ------
    InputError
        When a map cannot be read.
    """
    slices = {name: central_slices(read_map(file).data) for name, file in islice(maps.items(), MOST_MAPS)}
    _save(map_slices(slices), path)


def draw_latents(
    z: NDArray[np.floating],
    label: NDArray[np.integer],
    path: Path,
    *,
    centers: NDArray[np.integer] | None = None,
    what: str = "state",
) -> None:
    """Draw particles over the first two principal components of their latents, coloured by group.

    Parameters
    ----------
    z : ndarray
        (N, q); one latent gives a histogram.
    label : ndarray
        (N,) groups, from 0.
    path : Path
        The picture.
    centers : ndarray, optional
        (K,) rows of the particles at the centres of the groups, which are marked.
    what : str
        A group is called so.
    """
    if z.shape[1] == 1:
        _save(latent_histogram(z[:, 0], "latent 1"), path)
        return
    plane = principal_components(z).projections[:, :2]
    marked = None if centers is None else plane[centers]
    _save(latent_by_label(plane, label, ("PC 1", "PC 2"), marked, what=what), path)


def draw_components(
    v: NDArray[np.floating], label: NDArray[np.integer], path: Path, centers: NDArray[np.integer]
) -> None:
    """Draw particles over their first two volume components (N, L) as they are; see :func:`draw_latents`."""
    if v.shape[1] == 1:
        _save(latent_histogram(v[:, 0], "volume PC 1"), path)
        return
    names = ("volume PC 1", "volume PC 2")
    _save(latent_by_label(v[:, :2].astype(float), label, names, v[centers, :2].astype(float), what="state"), path)


def draw_fsc(curves: Mapping[str, NDArray[np.floating]], pixel_size_A: float, path: Path) -> None:
    """Draw FSC curves (S,) by name."""
    _save(fsc_curves(curves, pixel_size_A), path)


def draw_density(surface: Path, path: Path) -> None:
    """Draw the density and the apparent free energy in a file of a landscape job.

    Raises
    ------
    InputError
        When the file cannot be read.
    """
    found, components = read_surface(surface)
    _save(density_and_energy(found, [f"volume PC {number}" for number in components]), path)


def draw_views(rotation: NDArray[np.floating], path: Path) -> None:
    """Draw the distribution of the directions of view of rotations (N, 3, 3)."""
    _save(view_distribution(rotation), path)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=DOTS_PER_INCH)

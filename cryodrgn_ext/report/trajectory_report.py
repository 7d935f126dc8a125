"""report.html and logfile.pdf of a trajectory job."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latents import principal_components
from cryodrgn_ext.report.landscape_plots import path_in_plane
from cryodrgn_ext.report.page import ReportContent, ReportFigure
from cryodrgn_ext.report.plots import map_slices
from cryodrgn_ext.report.run_facts import RunFacts
from cryodrgn_ext.results.trajectory_files import FILM_NAME, MOVIE_NAME, NEAREST_NAME, SCRIPT_NAME

FILES = {
    "vol_NNN.mrc": "the volumes in order",
    "z_values.txt": "their latents",
    NEAREST_NAME: "the particles nearest to each volume",
    MOVIE_NAME: "the volumes as a moving picture, from three sides",
    FILM_NAME: "the same for slides and players",
    SCRIPT_NAME: "opens the series in ChimeraX at one contour level",
}


def write_trajectory_reports(
    facts: RunFacts,
    z: NDArray[np.float32],
    path: NDArray[np.float32],
    slices: Mapping[int, NDArray[np.float32]],
) -> None:
    """Write report.html and logfile.pdf.

    Parameters
    ----------
    facts : RunFacts
    z : ndarray
        (n, q) latents of the particles.
    path : ndarray
        (P, q) latents of the volumes.
    slices : mapping
        Number of a volume to its central slices (3, D, D).
    """
    drawn = map_slices({f"volume {number:03d}": planes for number, planes in slices.items()})
    figures = [ReportFigure("Volumes", "Central slices of some of the volumes, one grey scale.", drawn)]
    if z.shape[1] > 1:
        components = principal_components(z)
        line = (path - components.mean) @ components.axes[:2].T
        drawn = path_in_plane(components.projections[:, :2], line, ("PC 1", "PC 2"))
        figures.append(ReportFigure("Path", "The path among the particles; numbers are those of the volumes.", drawn))
    content = ReportContent(
        title="Trajectory",
        z=z,
        n_particles=len(z),
        further=figures,
    )
    facts.write(content, facts.existing(FILES) | {"vol_NNN.mrc": FILES["vol_NNN.mrc"]})

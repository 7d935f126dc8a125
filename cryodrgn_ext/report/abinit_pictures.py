"""Small pictures of a finished abinit job, for suites that show images beside results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.images.maps import read_map
from cryodrgn_ext.report.pictures import save_picture
from cryodrgn_ext.report.plots import central_slices, fsc_curves, map_slices
from cryodrgn_ext.report.pose_plots import view_distribution
from cryodrgn_ext.results.consensus import read_consensus
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.pose_table import PoseTable


@dataclass(frozen=True)
class AbinitPictures:
    """Files in png form: slices of the map, directions of view, and all plots with their captions."""

    map: Path
    views: Path
    plots: Mapping[Path, str]


def draw_abinit_pictures(result: Path, folder: Path) -> AbinitPictures:
    """Draw the pictures of an abinit job.

    Parameters
    ----------
    result : Path
        Its result directory.
    folder : Path
        Where the pictures go; made when missing.

    Raises
    ------
    InputError
        When the directory is not what an abinit job left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    volume = read_map(result / "map.mrc")
    poses = PoseTable.read(result / "poses.npz")
    shown = save_picture(map_slices({"map": central_slices(volume.data)}), folder / "map.png")
    views = save_picture(view_distribution(poses.rotation), folder / "views.png")
    curve = read_consensus(Layout(result).checkpoint / "maps").fsc
    resolution = save_picture(fsc_curves({"half-maps": curve}, volume.pixel_size_A), folder / "fsc.png")
    return AbinitPictures(
        shown, views,
        {shown: "Central slices of the map", views: "Directions of view", resolution: "FSC between half-maps, masked"},
    )  # fmt: skip

"""Files that the stages of an abinit job hand on in its checkpoint: what was found, and the chosen coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.images.maps import write_map
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.jobs.abinit_poses import FoundPoses
from cryodrgn_ext.plain_files import load_arrays, readable
from cryodrgn_ext.pose.origins import centred_on
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.pose_table import PoseTable

MAP_NAME, POSES_NAME = "map.mrc", "poses.npz"


@dataclass(frozen=True)
class PlacedImages:
    """Images without poses, and the places that shifts are searched around.

    Attributes
    ----------
    images : ParticleImages
    centre_px : Tensor or None
        (N, 2) x, y in working pixels; None for the centres of the images.
    """

    images: ParticleImages
    centre_px: Tensor | None

    def unaligned(self) -> ParticleImages:
        """The images centred on these places: every shift there is zero."""
        if self.centre_px is None:
            return self.images
        return self.near(self.images.with_poses(Poses(self.images.rotation, self.centre_px)))

    def near(self, aligned: ParticleImages) -> ParticleImages:
        """The images with poses, centred on these places."""
        return centred_on(aligned, self.centre_px)

    def in_image(self, poses: Poses) -> Poses:
        """Poses found for centred images, with shifts from the centres of the images as they are."""
        return poses if self.centre_px is None else poses.moved(self.centre_px)


@dataclass(frozen=True)
class AbinitFiles:
    """Paths below the checkpoint of a result directory."""

    layout: Layout

    @property
    def search(self) -> Path:
        """Checkpoints of the search."""
        return self.layout.checkpoint / "search"

    @property
    def found(self) -> Path:
        """Folder of the poses and the map that were found, in coordinates of their own."""
        return self.layout.checkpoint / "found"

    @property
    def found_tilted(self) -> Path:
        """Poses of the second images of tilt pairs."""
        return self.found / "tilted.npz"

    @property
    def transform(self) -> Path:
        """Coordinates and hand of the result."""
        return self.layout.checkpoint / "frame.json"

    @property
    def maps(self) -> Path:
        """Map and half-maps of the result."""
        return self.layout.checkpoint / "maps"

    def first_model(self, key: str) -> Path:
        """Folder of the model on the poses that were found."""
        return self.layout.checkpoint / f"first_{key}"

    def refined(self, key: str) -> Path:
        """Folder of the poses against each image's own volume."""
        return self.layout.checkpoint / f"refined_{key}"

    def last_model(self, key: str) -> Path:
        """Folder of the model on the final poses."""
        return self.layout.checkpoint / f"last_{key}"


def write_found(directory: Path, placed: PlacedImages, found: FoundPoses) -> None:
    """Write map and poses into a folder of the checkpoint."""
    directory.mkdir(parents=True, exist_ok=True)
    write_map(directory / MAP_NAME, found.map, placed.images.pixel_size_A)
    table = PoseTable.from_working(placed.images, placed.in_image(found.poses), found.log_likelihood)
    likelihoods = np.array(found.initialisations, np.float64)
    table.write(directory / POSES_NAME, starts=likelihoods, fsc=np.asarray(found.fsc, np.float64))


def read_search(directory: Path) -> tuple[list[float], NDArray[np.float64]]:
    """Log-likelihood of each random initialisation, and the FSC between the halves, that :func:`write_found` wrote."""
    path = directory / POSES_NAME
    with readable(path, "delete it and continue the job"):
        arrays = load_arrays(path, "starts", "fsc")
        return arrays["starts"].tolist(), arrays["fsc"]

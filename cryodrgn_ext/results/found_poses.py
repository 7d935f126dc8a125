"""Poses that an abinit job found, and the files of its checkpoint in which its stages hand them on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.errors import ResumeError
from cryodrgn_ext.images.map_origin import reconstructed
from cryodrgn_ext.images.maps import write_map
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.plain_files import load_arrays, readable, write_arrays
from cryodrgn_ext.pose.origins import PlacedImages
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.pose_table import PoseTable

MAP_NAME, POSES_NAME = "map.mrc", "poses.npz"


@dataclass(frozen=True)
class FoundPoses:
    """Poses of N images and the map that they go with.

    Attributes
    ----------
    poses : Poses
        (N,).
    log_likelihood : ndarray
        (N,) of each image at its pose, in nats above no signal.
    map : ndarray
        (D, D, D) float32 in the coordinates of the poses.
    fsc : ndarray
        (D // 2 + 1,) between its halves.
    initialisations : tuple of float
        Log-likelihood per image that each random initialisation reached; the largest was kept.
    tilted_shift_px : ndarray or None
        (N, 2) of the second images of tilt pairs.
    verdict : str
        Whether the map is right, see :class:`cryodrgn_ext.pose.abinit.AbInitio`; empty where it was not judged.
    symmetry : str
        Point group of the map, about RELION's axes.
    """

    poses: Poses
    log_likelihood: NDArray[np.floating]
    map: NDArray[np.float32]
    fsc: NDArray[np.float64]
    initialisations: tuple[float, ...]
    tilted_shift_px: NDArray[np.floating] | None = None
    verdict: str = ""
    symmetry: str = "C1"


@dataclass(frozen=True)
class TrainedModel:
    """Where a model, its consensus and its checkpoints lie."""

    root: Path

    @property
    def consensus(self) -> Path:
        """Map, half-maps and mask that it started from."""
        return self.root / "consensus"

    @property
    def training(self) -> Path:
        """Checkpoints of the engine."""
        return self.root / "training"

    @property
    def model(self) -> Path:
        """The saved model."""
        return self.root / "model"


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

    def first_model(self, key: str) -> TrainedModel:
        """Model on the poses that were found."""
        return TrainedModel(self.layout.checkpoint / f"first_{key}")

    def refined(self, key: str) -> Path:
        """Folder of the poses against each image's own volume."""
        return self.layout.checkpoint / f"refined_{key}"

    def last_model(self, key: str) -> TrainedModel:
        """Model on the final poses."""
        return TrainedModel(self.layout.checkpoint / f"last_{key}")


def write_found(directory: Path, placed: PlacedImages, found: FoundPoses) -> None:
    """Write map and poses into a folder of the checkpoint."""
    directory.mkdir(parents=True, exist_ok=True)
    origin = reconstructed(placed.images.n_usable, "the map that their poses were found with")
    write_map(directory / MAP_NAME, found.map, placed.images.pixel_size_A, origin)
    table = PoseTable.from_working(placed.images, placed.in_image(found.poses), found.log_likelihood)
    likelihoods = np.array(found.initialisations, np.float64)
    table.write(directory / POSES_NAME, starts=likelihoods, fsc=np.asarray(found.fsc, np.float64),
                verdict=np.array(found.verdict, np.str_), symmetry=np.array(found.symmetry, np.str_))  # fmt: skip


def read_search(directory: Path) -> tuple[list[float], NDArray[np.float64]]:
    """Log-likelihood of each random initialisation, and the FSC between the halves, that :func:`write_found` wrote."""
    path = directory / POSES_NAME
    with readable(path, "delete it and continue the job"):
        arrays = load_arrays(path, "starts", "fsc")
        return arrays["starts"].tolist(), arrays["fsc"]


def read_verdict(directory: Path) -> str:
    """Verdict that :func:`write_found` wrote; empty when there is none, as in results of earlier versions."""
    path = directory / POSES_NAME
    with readable(path, "delete it and continue the job"):
        return str(load_arrays(path).get("verdict", ""))


def read_symmetry(directory: Path) -> str:
    """Point group of the map that :func:`write_found` wrote; C1 in results of earlier versions."""
    path = directory / POSES_NAME
    with readable(path, "delete it and continue the job"):
        return str(load_arrays(path).get("symmetry", "C1"))


def write_first_poses(path: Path, found: FoundPoses, warnings: Sequence[str]) -> None:
    """Keep the poses of an explicit map, and what their search warned of."""
    rotation, shift_px = found.poses.numpy()
    likelihoods = np.array(found.initialisations, np.float64)
    write_arrays(path, {"rotation": rotation, "shift_px": shift_px, "log_likelihood": found.log_likelihood,
                        "map": found.map, "fsc": found.fsc, "starts": likelihoods,
                        "verdict": np.array(found.verdict, np.str_),
                        "warnings": np.array(warnings, np.str_)})  # fmt: skip


def read_first_poses(path: Path, monitor: Monitor) -> FoundPoses | None:
    """Read what :func:`write_first_poses` kept, and warn again; None when there is nothing.

    Raises
    ------
    ResumeError
        When the file is damaged.
    """
    if not path.exists():
        return None
    with readable(path, "remove that file to find the first poses again", error=ResumeError):
        arrays = load_arrays(path)
        poses = Poses.of(arrays["rotation"], arrays["shift_px"])
        likelihoods = tuple(arrays["starts"].tolist())
        for sentence in arrays["warnings"].tolist() if "warnings" in arrays else ():
            monitor.warn(sentence)
        verdict = str(arrays.get("verdict", ""))
        return FoundPoses(poses, arrays["log_likelihood"], arrays["map"], arrays["fsc"], likelihoods, verdict=verdict)

"""poses.npz: poses of all particles in the order of the input rows, in Å, so that no box is needed to read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.images.particle_images import ParticleImages, group_pixel_A
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.plain_files import load_arrays, readable, write_arrays
from cryodrgn_ext.pose.coordinate_transform import CoordinateTransform


@dataclass(frozen=True)
class PoseTable:
    """Poses of N particles.

    Attributes
    ----------
    rotation : ndarray
        (N, 3, 3) float64, model to image coordinates.
    shift_A : ndarray
        (N, 2) float64 displacement x, y from the box centre.
    half_set : ndarray
        (N,) int8, 1 or 2.
    log_likelihood : ndarray
        (N,) float32 of each image at its pose, in nats above no signal.
    """

    rotation: NDArray[np.float64]
    shift_A: NDArray[np.float64]
    half_set: NDArray[np.int8]
    log_likelihood: NDArray[np.float32]

    @classmethod
    def from_working(
        cls,
        images: ParticleImages,
        poses: Poses,
        log_likelihood: NDArray[np.floating],
    ) -> PoseTable:
        """Poses (N,) with shifts in working pixels of each image's optics group."""
        rotation, shift_px = poses.numpy()
        shift_A = np.asarray(shift_px, np.float64) * group_pixel_A(images)[:, None]
        return cls(_orthonormal(rotation), shift_A, images.half_set.cpu().numpy().astype(np.int8),
                   np.asarray(log_likelihood, np.float32))  # fmt: skip

    def transformed(self, transform: CoordinateTransform, pixel_size_A: float) -> PoseTable:
        """The same images in other coordinates; ``transform`` is in voxels of this size."""
        rotation, shift_A = transform.scaled(pixel_size_A).arrays(self.rotation, self.shift_A)
        return PoseTable(rotation, shift_A, self.half_set, self.log_likelihood)

    def align(self, images: ParticleImages) -> ParticleImages:
        """The images with these poses."""
        return images.with_poses(Poses.of(self.rotation, self.shift_A / group_pixel_A(images)[:, None]))

    def write(self, path: Path, **more: NDArray[np.generic]) -> None:
        """Write as .npz, atomically, with further arrays."""
        arrays: dict[str, NDArray[np.generic]] = {
            "rotation": self.rotation, "shift_A": self.shift_A, "half_set": self.half_set,
            "log_likelihood": self.log_likelihood, **more,
        }  # fmt: skip
        write_arrays(path, arrays)

    @classmethod
    def read(cls, path: Path) -> PoseTable:
        """Read what :meth:`write` wrote.

        Raises
        ------
        InputError
            When it is missing or damaged.
        """
        with readable(path, "delete it and continue the job", missing="continue the abinit job that writes it"):
            return cls(**load_arrays(path, "rotation", "shift_A", "half_set", "log_likelihood"))


def _orthonormal(rotation: NDArray[np.floating]) -> NDArray[np.float64]:
    """The nearest rotations in double precision: products of float32 matrices drift."""
    u, _, v = np.linalg.svd(np.asarray(rotation, np.float64))
    return np.asarray(u @ v, np.float64)

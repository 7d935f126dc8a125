"""Stand-ins for the search of poses: they know the truth, and give it in coordinates of their own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.jobs import abinit
from cryodrgn_ext.pose.centring import CentredCoefficients
from cryodrgn_ext.pose.coordinate_transform import CoordinateTransform
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps
from cryodrgn_ext.results.found_poses import FoundPoses

#: From the coordinates of the truth to those in which "the search" finds poses, in voxels.
ELSEWHERE = CoordinateTransform(
    Rotation.from_rotvec([0.4, -0.9, 1.3]).as_matrix(), np.array([1.2, -0.7, 0.5]), mirrored=True
)


@dataclass
class FakeSearch:
    """Finds the poses of the files, elsewhere; counts its calls, and raises ``error`` when there is one."""

    rotation: np.ndarray
    shift_A: np.ndarray
    calls: list[dict[str, object]] = field(default_factory=list)
    error: BaseException | None = None
    warning: str | None = None
    farthest_px: float = 0.0

    def find(self, images: ParticleImages, settings, max_shift_px, checkpoint_dir: Path, monitor) -> FoundPoses:  # type: ignore[no-untyped-def]
        self.calls.append({"n": images.n, "max_shift_px": max_shift_px, "rotation": images.rotation.numpy()})
        if self.error is not None:
            raise self.error
        if self.warning is not None:
            monitor.warn(self.warning)
        poses = ELSEWHERE.poses(Poses.of(self.rotation, self.shift_A / images.pixel_size_A))
        if isinstance(images.source, CentredCoefficients):  # shifts count from where the images were moved
            poses = poses.moved(-images.source.centre_px)
        self.farthest_px = float(poses.shift_px.abs().max())
        return found_at(images, poses)

    def refine(self, images: ParticleImages, model, settings, max_shift_px, radius, monitor) -> FoundPoses:  # type: ignore[no-untyped-def]
        self.calls.append({"refined": images.n, "radius": radius})
        return found_at(images, images.poses)


def found_at(images: ParticleImages, poses: Poses) -> FoundPoses:
    """Result of a search at these poses."""
    halves = reconstruct_half_maps(images.with_poses(poses))
    likelihood = np.linspace(5, 50, images.n).astype(np.float32)
    return FoundPoses(poses, likelihood, halves.map, halves.fsc, (20.0, 27.5, 26.0))


def install(monkeypatch: pytest.MonkeyPatch, rotation: np.ndarray, shift_A: np.ndarray) -> FakeSearch:
    """Put a fake in the place of the search and of the refinement against each image's own volume."""
    fake = FakeSearch(rotation, shift_A)
    monkeypatch.setattr(abinit, "find_poses", fake.find)
    monkeypatch.setattr(abinit, "refine_poses", fake.refine)
    return fake

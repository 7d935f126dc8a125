"""Stand-ins for the search of poses: they know the truth, and give it in a frame of their own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.jobs import abinit
from cryodrgn_ext.jobs.abinit_poses import FoundPoses
from cryodrgn_ext.pose.centring import CentredCoefficients
from cryodrgn_ext.pose.metrics import CoordinateTransform
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps

#: From the frame of the truth to the frame in which "the search" finds poses, in voxels.
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
    farthest_px: float = 0.0

    def find(self, images: ParticleImages, settings, max_shift_px, checkpoint_dir: Path, monitor) -> FoundPoses:  # type: ignore[no-untyped-def]
        self.calls.append({"n": images.n, "max_shift_px": max_shift_px, "rotation": images.rotation.numpy()})
        if self.error is not None:
            raise self.error
        rotation, shift_px = ELSEWHERE.poses(self.rotation, self.shift_A / images.pixel_size_A)
        if isinstance(images.source, CentredCoefficients):  # shifts count from where the images were moved
            shift_px = shift_px - images.source.centre_px.numpy()
        self.farthest_px = float(np.abs(shift_px).max())
        return found_at(images, rotation, shift_px)

    def refine(self, images: ParticleImages, model, settings, max_shift_px, radius, monitor) -> FoundPoses:  # type: ignore[no-untyped-def]
        self.calls.append({"refined": images.n, "radius": radius})
        return found_at(images, images.rotation.numpy(), images.shift_px.numpy())


def found_at(images: ParticleImages, rotation: np.ndarray, shift_px: np.ndarray) -> FoundPoses:
    """What a search gives at these poses."""
    import torch

    halves = reconstruct_half_maps(images.with_poses(torch.from_numpy(rotation), torch.from_numpy(shift_px)))
    likelihood = np.linspace(5, 50, images.n).astype(np.float32)
    return FoundPoses(rotation, shift_px, likelihood, halves.map, halves.fsc, (20.0, 27.5, 26.0))


def install(monkeypatch: pytest.MonkeyPatch, rotation: np.ndarray, shift_A: np.ndarray) -> FakeSearch:
    """Put a fake in the place of the search and of the refinement against each image's own volume."""
    fake = FakeSearch(rotation, shift_A)
    monkeypatch.setattr(abinit, "find_poses", fake.find)
    monkeypatch.setattr(abinit, "refine_poses", fake.refine)
    return fake

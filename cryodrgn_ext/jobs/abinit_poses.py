"""Between the job and the algorithms: poses of all particles from nothing, and poses against each image's own volume.

Everything that the job knows of :mod:`cryodrgn_ext.pose.abinit` stands here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.engines.base import Heterogeneity
from cryodrgn_ext.images.dataset import ParticleImages
from cryodrgn_ext.jobs.options.abinit import AbinitSettings
from cryodrgn_ext.progress import Monitor


@dataclass(frozen=True)
class FoundPoses:
    """Poses of N images and the map that they go with.

    Attributes
    ----------
    rotation : ndarray
        (N, 3, 3) model frame to image frame.
    shift_px : ndarray
        (N, 2) x, y in working pixels.
    log_likelihood : ndarray
        (N,) of each image at its pose, in nats above no signal.
    map : ndarray
        (D, D, D) float32 in the frame of the poses.
    fsc : ndarray
        (D // 2 + 1,) between its halves.
    starts : tuple of float
        Log-likelihood per image that each random start reached; the largest was kept.
    """

    rotation: NDArray[np.floating]
    shift_px: NDArray[np.floating]
    log_likelihood: NDArray[np.floating]
    map: NDArray[np.float32]
    fsc: NDArray[np.float64]
    starts: tuple[float, ...]


def find_poses(
    images: ParticleImages, settings: AbinitSettings, max_shift_px: float, checkpoint_dir: Path, monitor: Monitor
) -> FoundPoses:
    """Find poses and map from nothing; an interrupted search goes on from its checkpoint."""
    raise NotImplementedError


def refine_poses(
    images: ParticleImages, model: Heterogeneity, settings: AbinitSettings, checkpoint_dir: Path, monitor: Monitor
) -> FoundPoses:
    """Improve the poses that ``images`` have, each against the volume that the model gives it."""
    raise NotImplementedError

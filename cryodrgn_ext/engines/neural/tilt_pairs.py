"""Tilt pairs: two images of each particle with a known rotation between them (Zhong 2022, 3.7.2).

After an image is taken, the stage is tilted by a known angle and another one is taken of the same particle. If R is
the rotation of the first, that of the second is T R, with the same T for all particles. Both have the particle's
volume; each has a displacement of its own, since they were boxed in different micrographs. Held against a model
together they tell its hand, and more about the orientation than one image does.

The second images are given as a second set of particles in the order of the first, with the angle.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.joined import join_images
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.pose.groups import ImageGroups
from cryodrgn_ext.pose.search import SearchSettings, search

HAND_PAIRS = 300
HAND_RADIUS = 12.0  # cycles per box: band of the exhaustive search


def tilt_rotation(tilt_deg: float, axis_deg: float = 0.0) -> Tensor:
    """Rotation T (3, 3) float32 of a tilt about an axis in the image plane, so that R_tilted = T R.

    Parameters
    ----------
    tilt_deg : float
        Right-handed about the axis: a positive tilt about x moves what lies at +z towards -y.
    axis_deg : float
        Direction of the axis, from x towards y.

    Raises
    ------
    InputError
        When there is no tilt.
    """
    if not 1 <= abs(tilt_deg) <= 90:
        raise InputError(
            f"--tilt_deg {tilt_deg:g} is no tilt: give the angle of the second image against the first, 1 to 90 degrees"
        )
    axis = np.deg2rad(axis_deg)
    vector = np.deg2rad(tilt_deg) * np.array([np.cos(axis), np.sin(axis), 0.0])
    return torch.from_numpy(Rotation.from_rotvec(vector).as_matrix()).float()


def hand_by_tilts(
    first: ParticleImages,
    second: ParticleImages,
    tilt: Tensor,
    volume: Tensor,
    max_shift_px: float,
    seed: int,
) -> tuple[float, float]:
    """How well pairs agree with a map, and with its mirror image.

    Parameters
    ----------
    first, second : ParticleImages
        Images of N particles, and their second images.
    tilt : Tensor
        (3, 3) of :func:`tilt_rotation`.
    volume : Tensor
        (D, D, D) map, axes z, y, x.
    max_shift_px : float
        Farthest shift, in working pixels.
    seed : int
        Of the choice of at most ``HAND_PAIRS`` particles.

    Returns
    -------
    (as it is, mirrored) : float
        Mean log-likelihood of a pair at its best pose, in nats.
    """
    chosen = torch.randperm(first.n, generator=torch.Generator().manual_seed(seed))[:HAND_PAIRS]
    images = join_pairs(first.subset(chosen), second.subset(chosen))
    members = torch.arange(len(chosen))
    groups = ImageGroups(torch.stack([members, members + len(chosen)], 1), torch.stack([torch.eye(3), tilt]))
    radius = float(images.plane.radius)
    low, high = (min(band, radius) for band in (HAND_RADIUS, 1.5 * HAND_RADIUS))
    settings = SearchSettings(refinements=2, k_min=low, k_max=high, shift_extent_px=max_shift_px)
    gains = []
    for density in (volume, volume.flip(0).roll(1, 0)):  # z -> -z about voxel D // 2
        found = search(images, FourierVolume.from_map(density), settings, groups=groups)
        gains.append(float(found.log_likelihood[:, 0].mean()))
    return gains[0], gains[1]


def join_pairs(first: ParticleImages, second: ParticleImages) -> ParticleImages:
    """First images of N particles, then second images in the same order: 2 N rows, pairs in the same half set.

    Raises
    ------
    InputError
        When numbers, boxes, bands, pixel sizes or CTF do not go together.
    """
    if second.n != first.n:
        raise InputError(
            f"the tilted set has {second.n} particles, the untilted one {first.n}: give the second image of every "
            "particle, in the order of the first ones"
        )
    return join_images(first, replace(second, half_set=first.half_set))

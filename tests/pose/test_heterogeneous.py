"""Poses against volumes of each image's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.pose.heterogeneous import LinearVolumes, refine_with_volumes
from cryodrgn_ext.pose.local import rotated
from cryodrgn_ext.pose.metrics import pose_errors
from cryodrgn_ext.pose.reconstruct_settings import ReconstructSettings
from tests.pose.test_local import blob_map, make_images

SETTINGS = ReconstructSettings(max_shift_px=3.0, mask_radius_px=15.0)


def volumes(n: int) -> LinearVolumes:
    base, moving = blob_map(1), blob_map(2, 10) - blob_map(5, 10)
    return LinearVolumes(base, moving[None], torch.linspace(-1.5, 1.5, n)[:, None])


def test_condensed_volumes_are_the_same_volumes() -> None:
    rng = torch.Generator().manual_seed(0)
    components = torch.stack([blob_map(seed) for seed in (2, 3, 4)])
    components = torch.cat([components, components[:1] + components[1:2]])  # one too many
    given = LinearVolumes(blob_map(1), components, torch.randn(50, 4, generator=rng) + 0.5)
    few = given.condensed(enough=1 - 1e-6)
    assert len(few.components) == 3

    def volume(of: LinearVolumes, i: int) -> torch.Tensor:
        return of.base + torch.einsum("c,cxyz->xyz", of.weights[i], of.components)

    for i in (0, 17, 49):
        assert float((volume(given, i) - volume(few, i)).norm()) < 1e-3 * float(volume(given, i).norm())
    assert len(given.condensed(most=1).components) == 1
    none = LinearVolumes(blob_map(1), torch.zeros(0, 32, 32, 32), torch.zeros(50, 0))
    assert none.condensed() is none


@pytest.mark.parametrize("search_all", [False, True])
def test_own_volumes_give_better_poses_than_their_mean(search_all: bool) -> None:
    own = volumes(60)
    maps = torch.cat([own.base[None], own.components])
    images = make_images(maps, torch.cat([torch.ones(60, 1), own.weights], dim=1), noise=0.7, seed=5)
    rng = torch.Generator().manual_seed(1)
    off = rotated(images.rotation.double(), torch.randn(60, 3, generator=rng) * math.radians(3)).float()
    begun = images.with_poses(Poses(off, images.shift_px + 0.5))
    found = refine_with_volumes(begun, own, SETTINGS, 12.0, search_all=search_all)
    mean = refine_with_volumes(
        begun, LinearVolumes(own.base, torch.zeros(0, 32, 32, 32), torch.zeros(60, 0)), SETTINGS, 12.0
    )
    ours, plain = (pose_errors(one.poses, images.poses) for one in (found, mean))
    assert np.median(ours.degrees) < 0.7 * np.median(plain.degrees)
    assert np.median(ours.degrees) < 1.2


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        LinearVolumes(blob_map(1), blob_map(2)[None], torch.zeros(5, 2))

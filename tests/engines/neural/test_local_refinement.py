"""Gauss-Newton steps from near the truth: errors shrink, and more so with two images of a particle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryodrgn_ext.engines.neural.local_refinement import differentiable_volume, refine_pairs
from cryodrgn_ext.engines.neural.tilt_pairs import tilt_rotation
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.pose.groups import ImageGroups
from cryodrgn_ext.pose.local import refine_poses
from cryodrgn_ext.pose.scoring import Scorer
from tests.pose.phantoms import Phantom, angles_deg, phantom

N, BAND = 60, 14.0


@dataclass(frozen=True)
class Pairs:
    first: Phantom
    second: Phantom
    turn: Tensor
    rotation: Tensor  # to begin with
    shift_px: Tensor

    def scorers(self) -> list[Scorer]:
        return [Scorer(one.images, radius=BAND) for one in (self.first, self.second)]

    def groups(self, images: int) -> ImageGroups:
        relative = torch.stack([torch.eye(3), self.turn])[:images]
        return ImageGroups(torch.arange(N)[:, None].expand(N, images), relative)


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    first = phantom(N, snr=4.0)
    turn = tilt_rotation(40.0, 20.0)
    second = phantom(N, snr=4.0, seed=9, rotation=turn @ first.rotation)
    rng = np.random.default_rng(1)
    off = Rotation.from_rotvec(np.deg2rad(1.5) * rng.normal(size=(N, 3))).as_matrix()
    shift_px = torch.stack([first.shift_px, second.shift_px], 1) + torch.from_numpy(rng.normal(0, 0.3, (N, 2, 2)))
    return Pairs(first, second, turn, torch.from_numpy(off) @ first.rotation.double(), shift_px)


def test_one_image_is_refined_as_elsewhere(pairs: Pairs) -> None:
    scorer = pairs.scorers()[0]
    volume = differentiable_volume(pairs.first.density, BAND)
    found, shift_px, fit = refine_pairs([scorer], pairs.groups(1), volume, pairs.rotation, pairs.shift_px[:, :1])
    other = refine_poses(scorer, volume, Poses(pairs.rotation, pairs.shift_px[:, 0]), BAND, iterations=8)
    assert angles_deg(found, other.poses.rotation).median() < 0.05
    torch.testing.assert_close(fit.median(), other.log_likelihood.median(), rtol=1e-3, atol=0.0)
    error = angles_deg(found, pairs.first.rotation)
    assert error.median() < 0.7 * angles_deg(pairs.rotation, pairs.first.rotation).median()
    assert (shift_px[:, 0] - pairs.first.shift_px).norm(dim=1).median() < 0.2


def test_two_images_rotate_together(pairs: Pairs) -> None:
    scorers, volume = pairs.scorers(), differentiable_volume(pairs.first.density, BAND)
    alone = refine_pairs(scorers[:1], pairs.groups(1), volume, pairs.rotation, pairs.shift_px[:, :1])
    both = refine_pairs(scorers, pairs.groups(2), volume, pairs.rotation, pairs.shift_px)
    errors = [angles_deg(found[0], pairs.first.rotation).square().mean().sqrt() for found in (alone, both)]
    assert errors[1] < 0.85 * errors[0]
    for member, one in enumerate((pairs.first, pairs.second)):
        assert (both[1][:, member] - one.shift_px).norm(dim=1).median() < 0.2
    # the fit is that of both images at these very poses, and no worse than where it began
    again = refine_pairs(scorers, pairs.groups(2), volume, both[0], both[1])
    assert (again[2] >= both[2] - 1e-6).all()
    begun = torch.zeros(N, dtype=torch.float64)
    for member, scorer in enumerate(scorers):
        seen = pairs.groups(2).rotations(pairs.rotation, member)
        begun += refine_poses(scorer, volume, Poses(seen, pairs.shift_px[:, member]), BAND, iterations=0).log_likelihood
    assert (both[2] >= begun - 1e-6).all()

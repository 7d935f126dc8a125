"""Whether a map has a symmetry: one that has, one in which some images lie turned over, and one that has not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryodrgn_ext.fourier.point_groups import point_group
from cryodrgn_ext.pose.found_symmetry import FoundSymmetry
from cryodrgn_ext.pose.map_symmetry import KEPT, symmetry_kept
from tests.pose.phantoms import density

BOX = 32
C2 = FoundSymmetry(point_group("C2"), np.eye(3))


def half_turn(volume: torch.Tensor) -> torch.Tensor:
    """About z through voxel D // 2, without interpolation."""
    return torch.roll(torch.rot90(volume, 2, (1, 2)), (1, 1), (1, 2))


@pytest.mark.parametrize(("turned", "has"), [(0.5, True), (0.25, False), (0.0, False)])
def test_the_share_of_images_that_lie_turned_over_shows(turned: float, has: bool) -> None:
    one = density(BOX)
    mixed = (1 - turned) * one + turned * half_turn(one)
    generator = torch.Generator().manual_seed(0)
    one, other = (mixed + 0.1 * mixed.std() * torch.randn(mixed.shape, generator=generator) for _ in range(2))
    assert (symmetry_kept(one, other, C2) >= KEPT) == has


def test_the_axis_may_pass_beside_the_centre_of_the_box() -> None:
    one = density(BOX)
    moved = torch.roll(one + half_turn(one), (2, -1), (1, 2))
    assert symmetry_kept(moved, moved, C2) > 0.95


def test_noise_has_none() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(BOX, BOX, BOX, generator=generator) for _ in range(2))
    assert symmetry_kept(one, other, C2) < KEPT

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import torch

from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.fourier.slices import FourierGrid
from cryodrgn_ext.reconstruction.backprojection import backproject
from cryodrgn_ext.validation.differences import ConsensusComparison
from cryodrgn_ext.validation.held_out import GUARD, HeldOutCoordinates, disjoint_sets
from cryodrgn_ext.validation.states import consensus_mask

from .conftest import Case


def test_sets_of_coefficients_are_disjoint_balanced_and_apart() -> None:
    kxy = HalfPlane(64, 30).kxy
    even, odd = disjoint_sets(kxy)
    assert not set(even.tolist()) & set(odd.tolist())
    assert abs(len(even) - len(odd)) < 0.1 * len(even)
    assert len(even) + len(odd) > 0.7 * len(kxy)
    a, b = kxy[even].double(), kxy[odd].double()
    apart = torch.cdist(torch.cat([a, -a]), b).min()  # Friedel partners carry the same noise
    assert float(apart) >= 2 * GUARD * np.cos(np.pi / 8)


def test_copies_of_an_image_count_once(rigid: Case) -> None:
    """A symmetry-expanded set holds no more noise than its images: its standard error must not shrink."""
    half_set = torch.as_tensor(rigid.particles.half_set)
    grid = FourierGrid(rigid.images.box_size, 8)
    sums = [backproject(rigid.images, (half_set == half).nonzero()[:, 0], grid=grid) for half in (1, 2)]
    comparison = ConsensusComparison(sums[0], sums[1], consensus_mask(rigid.consensus))
    every = torch.arange(rigid.images.n)
    expanded = rigid.images.subset(torch.cat([every, every, every]))
    named = SimpleNamespace(
        image_hash=np.tile(np.arange(rigid.images.n, dtype=np.uint64), 3),
        source=SimpleNamespace(positions=lambda: None), stack_id=np.zeros(3 * rigid.images.n, int),
    )  # fmt: skip
    expanded = dataclasses.replace(expanded, particles=named)  # type: ignore[arg-type]
    found = HeldOutCoordinates(expanded, comparison, seed=0)
    assert found.standard_error == HeldOutCoordinates(rigid.images, comparison, seed=0).standard_error

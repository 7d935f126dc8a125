"""Half-sets agree on what is real and on nothing else, though both start from the same components."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cryodrgn_ext.engines.subspace.anatomy import Anatomy
from cryodrgn_ext.engines.subspace.em import SubspaceFit, em_pass
from cryodrgn_ext.engines.subspace.halves import Halves, independent_halves
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.coefficient_source import ResidentCoefficients
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import SilentMonitor
from tests.engines.linear_set import LinearSet
from tests.engines.subspace.test_em import band_of


def homogeneous(data: LinearSet, seed: int = 5) -> LinearSet:
    """The same views of the consensus alone, with unit noise."""
    images: ParticleImages = data.images
    rows = torch.arange(images.n)
    batch = images.batch(rows)
    clean = batch.ctf * FourierVolume.from_map(torch.from_numpy(data.base_map), radius=16).slice(batch.points)
    noise = torch.randn(*clean.shape, 2, generator=torch.Generator().manual_seed(seed)) * 0.5**0.5
    values = torch.view_as_real(clean.contiguous()) + noise
    pure = replace(images, source=ResidentCoefficients(values, rows), shift_px=torch.zeros(images.n, 2))
    return replace(data, images=pure)


@pytest.mark.parametrize("rows", [600, 200])
def test_no_component_of_a_homogeneous_set_is_real(linear_set: LinearSet, rows: int) -> None:
    data = homogeneous(linear_set)
    images = data.images.subset(torch.arange(rows))
    few = replace(data, images=images)
    fit = SubspaceFit(images, lambda r: band_of(few, r), 4, 15, 0.0, Anatomy(data.base_map), 0, SilentMonitor())
    found = fit.run()
    assert found.n_real == 0, found.agreement


def test_noise_in_shared_components_does_not_come_back_from_either_half(linear_set: LinearSet) -> None:
    """Components that have emerged from pure noise of both halves: the next step of either has lost the other's."""
    data = homogeneous(linear_set)
    q = 3
    fit = SubspaceFit(data.images, lambda r: band_of(data, r), q, 15, 0.0, Anatomy(data.base_map), 0, SilentMonitor())
    for _ in range(8):
        fit.step()
    grid, present = fit.band.grid, fit.values.clone()
    result = em_pass(fit.band, present, q, torch.arange(600), fit._infer, SilentMonitor())
    raw = result.equations.halves(present)
    independent = independent_halves(grid, present, *raw, result.covariance)
    as_they_are = Halves(*raw).agreement(grid, q + 1)[1:]
    assert as_they_are.min() > 0.5  # what both owe to where they started
    assert independent.agreement(grid, q + 1)[1:].abs().max() < 0.2


def test_a_step_of_no_length_leaves_the_components_in_the_ball(linear_set: LinearSet) -> None:
    band = band_of(linear_set, 12)
    present = band.grid.from_map(torch.from_numpy(linear_set.mode_map))[..., None].repeat(1, 1, 16)
    halves = independent_halves(band.grid, present, present, present, 0.7 * torch.eye(2).double())
    assert torch.equal(halves.first, halves.second)
    error = (halves.first[..., :3] - present[..., :3]).norm() / present[..., :3].norm()
    assert error < 0.02

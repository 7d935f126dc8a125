"""Backprojection: recovers what was projected, with its densities; sums add; weights, symmetry and chunks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cryodrgn_ext.fourier.fsc import fsc
from cryodrgn_ext.fourier.masks import spherical_mask
from cryodrgn_ext.fourier.point_groups import point_group
from cryodrgn_ext.fourier.slices import FourierGrid, FourierVolume
from cryodrgn_ext.reconstruction import backprojection
from cryodrgn_ext.reconstruction.backprojection import backproject
from tests.reconstruction.specimens import BOX, density, expanded, images_of

MASK = spherical_mask(BOX, 11, 3)


@pytest.mark.parametrize("with_ctf", [True, False])
def test_many_clean_images_give_the_map_back_in_its_own_units(with_ctf: bool) -> None:
    volume = density()
    solved = backproject(images_of(volume, 1500, with_ctf=with_ctf)).solve()
    curve = fsc(solved, volume, MASK)
    assert curve[1 : BOX // 2].min() > 0.99
    assert curve[BOX // 2] > 0.9  # to the Nyquist frequency itself
    inside = MASK == 1
    slope = (solved[inside] * volume[inside]).sum() / volume[inside].square().sum()
    assert float(slope) == pytest.approx(1.0, abs=0.02)


def test_sums_of_parts_add_up_and_are_the_same_bit_for_bit() -> None:
    images = images_of(density(), 60, noise=2.0)
    whole = backproject(images)
    again = backproject(images)
    assert torch.equal(whole.numerator, again.numerator)
    assert torch.equal(whole.weight, again.weight)
    parts = backproject(images, torch.arange(0, 25)) + backproject(images, torch.arange(25, 60))
    assert parts.n_particles == 60
    assert torch.allclose(parts.weight, whole.weight, rtol=1e-4, atol=1e-5)
    assert torch.allclose(parts.numerator, whole.numerator, rtol=1e-3, atol=1e-3)


def test_weights_count_particles(monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_of(density(), 30, noise=2.0)
    rows = torch.arange(30)
    weights = torch.where(rows < 10, 2.0, torch.where(rows < 20, 1.0, 0.0))
    monkeypatch.setattr(backprojection, "COEFFICIENTS_PER_BATCH", 3000)  # several batches
    weighted = backproject(images, rows, weights)
    repeated = backproject(images, torch.cat([rows[:10], rows[:10], rows[10:20]]))
    assert weighted.n_particles == 20
    assert torch.allclose(weighted.weight, repeated.weight, rtol=1e-4, atol=1e-5)
    assert torch.allclose(weighted.numerator, repeated.numerator, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bad", [torch.tensor([1.0, -1.0]), torch.tensor([1.0, torch.nan]), torch.ones(3)])
def test_bad_weights_are_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError, match="weights"):
        backproject(images_of(density(), 4), torch.arange(2), bad)


def test_adjoint_of_projection() -> None:
    """<slice(V), X> = <V, insert(X)>: the numerator is the transpose of the forward model."""
    images = images_of(density(), 5, noise=1.0)
    batch = images.batch(torch.arange(5))
    sums = backproject(images)
    g = torch.Generator().manual_seed(9)
    other = FourierVolume.from_map(torch.randn(BOX, BOX, BOX, generator=g), radius=images.plane.radius)
    left = (batch.ctf * other.slice(batch.points) * batch.coefficients.conj()).real.double().sum()
    half = torch.ones(other.grid.shape[2], dtype=torch.float64)
    half[0] = 0.5  # the plane x = 0 holds both members of each pair
    right = ((other.data * sums.numerator.conj()).real.double() * half).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-4)


def test_symmetry_makes_the_map_symmetric_and_uses_each_image_for_every_copy() -> None:
    solved = backproject(images_of(density(), 300), symmetry=point_group("C4")).solve()
    # A turn by 90 degrees about z through voxel D // 2: leave out the plane that has no partner.
    core = solved[:, 1:, 1:]
    assert torch.allclose(core.rot90(1, (1, 2)), core, atol=2e-3 * float(solved.max()))
    quarter = density()[:, 1:, 1:]
    symmetrised = torch.stack([quarter.rot90(i, (1, 2)) for i in range(4)]).mean(0)
    inside = MASK[:, 1:, 1:] == 1
    correlation = torch.corrcoef(torch.stack([core[inside], symmetrised[inside]]))[0, 1]
    assert float(correlation) > 0.99


@pytest.mark.parametrize("name", ["C3", "D3", "T", "O", "I1", "I3"])
def test_symmetry_is_the_sum_over_a_set_that_was_expanded_by_it(name: str) -> None:
    group = point_group(name)
    images = images_of(density(), 12, noise=1.0)
    ours = backproject(images, symmetry=group)
    assert ours.symmetry is group
    assert ours.n_particles == 12
    theirs = backproject(expanded(images, torch.from_numpy(group.rotations)))
    assert float((ours.weight - theirs.weight).abs().max()) < 1e-3 * float(theirs.weight.max())
    assert float((ours.numerator - theirs.numerator).abs().max()) < 1e-3 * float(theirs.numerator.abs().max())
    assert torch.allclose(ours.solve(), theirs.solve(), atol=1e-3 * float(theirs.solve().abs().max()))


def test_sums_of_different_symmetries_do_not_add_up() -> None:
    images = images_of(density(), 4)
    with pytest.raises(ValueError, match="symmetry D2"):
        backproject(images) + backproject(images, symmetry=point_group("D2"))


def test_a_lower_band_is_a_low_pass_of_the_whole() -> None:
    images = images_of(density(), 400)
    low = backproject(images, grid=FourierGrid(BOX, 6))
    assert low.grid.radius == 6
    assert fsc(low.solve(), density(), MASK)[1:6].min() > 0.98
    beyond = torch.fft.rfftn(low.solve()).abs()[0, 0, 10:].max() / torch.fft.rfftn(low.solve()).abs().max()
    assert float(beyond) < 0.01


def test_nothing_gives_an_empty_map() -> None:
    sums = backproject(images_of(density(), 3), torch.empty(0, dtype=torch.int64))
    assert sums.n_particles == 0
    assert float(sums.solve().abs().max()) == 0.0


def test_prior_shrinks_noise_and_leaves_what_is_certain() -> None:
    images = images_of(density(), 200, noise=1.0)
    sums = backproject(images)
    plain = sums.solve()
    assert torch.allclose(sums.solve(torch.zeros(images.plane.radius + 1)), plain)
    halved = sums.solve(sums.shell_weight())
    assert 0.3 < float(halved.std() / plain.std()) < 0.75

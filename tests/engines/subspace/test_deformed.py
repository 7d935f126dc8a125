"""Motions that deformations of the consensus make: found in few noisy images, and not in what is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.engines.base import load_heterogeneity
from cryodrgn_ext.engines.context import EngineContext
from cryodrgn_ext.engines.held_out import HeldOut
from cryodrgn_ext.engines.subspace.anatomy import Anatomy
from cryodrgn_ext.engines.subspace.deformed import DeformedSubspace, bands_to, half_sets, latents, search
from cryodrgn_ext.engines.subspace.em import SubspaceFit
from cryodrgn_ext.engines.subspace.engine import train
from cryodrgn_ext.engines.subspace.heterogeneity import SubspaceHeterogeneity
from cryodrgn_ext.engines.subspace.settings import SubspaceSettings
from cryodrgn_ext.progress import SilentMonitor
from tests.engines.linear_set import BOX, LinearSet, make_bent_set
from tests.engines.subspace.test_em import band_of
from tests.engines.subspace.test_halves import homogeneous

RADII = [8, 11]


@pytest.fixture(scope="module")
def few_images() -> LinearSet:
    """So few, with so much noise, that free components find nothing."""
    return make_bent_set(300, 0.5)


def searched(data: LinearSet) -> list[DeformedSubspace]:
    half = half_sets(data.images.half_set)
    return search(lambda r: band_of(data, r), RADII, half, Anatomy(data.base_map), 3, 0.0, SilentMonitor())


def test_bands_end_at_the_limit() -> None:
    assert bands_to(8, 22) == [8, 11, 15, 21, 22]
    assert bands_to(8, 6) == [6]


def test_a_bend_is_found_where_free_components_find_nothing(few_images: LinearSet) -> None:
    fit = SubspaceFit(
        few_images.images, lambda r: band_of(few_images, r), 3, 11, 0.0, Anatomy(few_images.base_map), 0,
        SilentMonitor(),
    )  # fmt: skip
    while fit.grow() or fit.done < fit.passes:
        fit.step()
    fit.weigh()
    assert fit.gains.informative == 0
    fit._take_deformations()
    assert fit.deformed is not None
    assert fit.subspace.n_real == 1
    half, rows = half_sets(few_images.images.half_set), torch.arange(300)
    deformations = Anatomy(few_images.base_map).deformations(fit.band.grid)
    found = latents(fit.deformed, fit.band, deformations, half, rows, 0.0)
    assert abs(np.corrcoef(found.mean[:, 0].numpy(), few_images.y)[0, 1]) > 0.5
    gain = HeldOut(float(found.gain[:, 0].mean()), float(found.gain[:, 0].std()) / 300**0.5, 0.0)
    assert gain.wins


def test_one_structure_has_no_motion(few_images: LinearSet) -> None:
    assert searched(homogeneous(few_images)) == []


def test_errors_of_poses_are_no_motion(few_images: LinearSet) -> None:
    data = homogeneous(few_images)
    wrong = Rotation.from_rotvec(np.random.default_rng(0).normal(0, np.deg2rad(3.0), (300, 3))).as_matrix()
    rotation = data.images.rotation @ torch.as_tensor(wrong, dtype=torch.float32)
    shift = data.images.shift_px + torch.randn(300, 2, generator=torch.Generator().manual_seed(0)) * 0.5
    assert searched(replace(data, images=replace(data.images, rotation=rotation, shift_px=shift))) == []


def test_images_meet_what_the_other_half_set_learned(few_images: LinearSet) -> None:
    found = searched(few_images)[-1]
    band = band_of(few_images, found.radius)
    half, rows = half_sets(few_images.images.half_set), torch.arange(300)
    deformations = Anatomy(few_images.base_map).deformations(band.grid)
    first, second = found.halves
    swapped = replace(found, halves=(first, replace(second, loadings=0 * second.loadings)))
    plain, other = (latents(f, band, deformations, half, rows, 0.0) for f in (found, swapped))
    torch.testing.assert_close(other.mean[half == 1], plain.mean[half == 1])
    assert not other.mean[half == 0].any()


def test_checkpoints_keep_motions(few_images: LinearSet) -> None:
    found = searched(few_images)[-1]
    again = DeformedSubspace.from_tensors(found.radius, found.tensors())
    assert torch.equal(again.gains.values, found.gains.values)
    for a, b in zip((again.both, *again.halves), (found.both, *found.halves), strict=True):
        assert torch.equal(a.columns, b.columns)


def test_a_job_returns_what_deformations_tell(few_images: LinearSet, tmp_path: Path) -> None:
    context = EngineContext(torch.device("cpu"), 1e9, 1e9, 0, tmp_path / "checkpoint", 0.0, SilentMonitor())
    settings = SubspaceSettings(zdim=2, rare_states=0)
    model = train(few_images.images, few_images.base_map, settings, context, 11)
    assert HeldOut.from_numbers(model.held_out).wins
    assert abs(np.corrcoef(model.z[:, 0], few_images.y)[0, 1]) > 0.5
    # Straight in the latents, and bent as the truth is.
    z = model.z.mean(0) + np.linspace(-1, 1, 3)[:, None] * model.z.std(0)
    low, middle, high = model.volumes(z)
    assert np.abs(high - 2 * middle + low).max() < 0.02 * np.abs(high - low).max()
    inside = model.moving > 0.5
    assert abs(np.corrcoef((high - low)[inside], few_images.mode_map[inside])[0, 1]) > 0.5
    assert low.shape == (BOX, BOX, BOX)
    model.save(tmp_path)
    kept = load_heterogeneity(tmp_path)
    assert isinstance(kept, SubspaceHeterogeneity)
    assert all(np.array_equal(a, b) for a, b in zip(kept.volumes(z), (low, middle, high), strict=True))
    again = train(few_images.images, few_images.base_map, settings, context, 11)  # from the last checkpoint
    assert np.array_equal(again.z, model.z)
    assert torch.equal(again.values, model.values)

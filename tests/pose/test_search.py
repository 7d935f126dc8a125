"""Planted poses are found, to the resolution of the last grid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier import so3_grid
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.pose.groups import ImageGroups
from cryodrgn_ext.pose.model import LinearModel
from cryodrgn_ext.pose.scoring import Scorer
from cryodrgn_ext.pose.search import SearchSettings, search
from tests.devices import on_devices
from tests.pose.phantoms import angles_deg, phantom

SETTINGS = SearchSettings(base_level=1, refinements=3, keep=8, k_min=8, k_max=15, shift_extent_px=4, shift_count=5)


@on_devices
def test_noiseless_poses_are_found_to_the_last_grid(device: str) -> None:
    made = phantom(40, snr=None, seed=1)
    found = search(made.images.load(device), FourierVolume.from_map(made.density.to(device)), SETTINGS)
    last = so3_grid.spacing_deg(SETTINGS.base_level + SETTINGS.refinements)
    step = 2 * SETTINGS.shift_extent_px / SETTINGS.shift_count / 2**SETTINGS.refinements
    error = angles_deg(found.best.rotation.cpu(), made.rotation)
    # A cell reaches 0.9 spacings from its centre; beside the best one, another shift may make up for the difference.
    assert error.median() < 0.8 * last
    assert error.max() < 2 * last
    assert (found.best.shift_px.cpu() - made.shift_px).abs().amax() < 2 * step


def test_what_is_found_in_noise_is_as_likely_as_the_truth() -> None:
    made = phantom(100, snr=0.1, seed=2)
    found = search(made.images, made.volume, SETTINGS)
    truth = Scorer(made.images, radius=15).own(made.volume, made.rotation[:, None], made.shift_px[:, None])[:, 0, 0]
    assert (found.log_likelihood[:, 0] > truth - 0.5).float().mean() > 0.95
    error = angles_deg(found.best.rotation, made.rotation)
    assert error.median() < 6.0  # what the noise leaves at this box
    assert (error < 15.0).float().mean() > 0.9
    assert (found.best.shift_px - made.shift_px).norm(dim=1).median() < 0.5


def test_candidates_that_lie_apart_are_other_peaks_of_the_likelihood() -> None:
    made = phantom(60, snr=0.1, seed=2)
    settings = replace(SETTINGS, refinements=1, keep=12, keep_final=4)
    level = SETTINGS.base_level + 1
    crowd, few = (search(made.images, made.volume, replace(settings, apart=apart)) for apart in (0.0, 1.5))

    def nearest(rotation: torch.Tensor) -> torch.Tensor:
        """(N,) least angle between two candidates of an image."""
        pairs = [angles_deg(rotation[:, i], rotation[:, j]) for i in range(4) for j in range(i)]
        return torch.stack(pairs).amin(0)

    least = 1.5 * so3_grid.spacing_deg(level)
    assert (nearest(few.poses.rotation) >= least - 1e-2).float().mean() > 0.9
    assert (nearest(crowd.poses.rotation) < least).float().mean() > 0.9
    assert (few.log_likelihood.diff(dim=1) <= 0).all()  # likeliest first
    # A neighbour that was left out may have led higher, by no more than steps from its peak make up for.
    assert (few.log_likelihood - crowd.log_likelihood)[:, 0].median() > -0.5


def test_rows_and_memory_do_not_change_what_is_found() -> None:
    made = phantom(30, snr=0.1, seed=4)
    settings = replace(SETTINGS, base_level=0, keep_final=3)
    whole = search(made.images, made.volume, settings)
    rows = torch.tensor([4, 29, 0])
    some = search(made.images, made.volume, replace(settings, memory_bytes=1 << 20), rows)
    assert torch.equal(some.poses.rotation, whole.poses.rotation[rows])
    assert torch.equal(some.poses.shift_px, whole.poses.shift_px[rows])
    assert whole.poses.rotation.shape == (30, 3, 3, 3)
    assert (whole.log_likelihood.diff(dim=1) <= 0).all()


def test_poses_that_images_have_are_not_used() -> None:
    made = phantom(10, snr=0.1, seed=5)
    settings = replace(SETTINGS, base_level=0, refinements=1)
    aligned = made.images.with_poses(made.poses)
    assert torch.equal(
        search(made.images, made.volume, settings).best.rotation, search(aligned, made.volume, settings).best.rotation
    )


def test_each_image_is_searched_in_its_own_volume() -> None:
    """A consensus and a component whose sum is the volume that made the images find what that volume finds."""
    made = phantom(30, snr=0.1, seed=8)
    base = FourierVolume.from_map(made.density.flip(0) * 0.5)
    rest = FourierVolume(base.grid, made.volume.data - base.data)
    z = torch.ones(30, 1)
    z[::3] = 0.0
    settings = replace(SETTINGS, refinements=2)
    found = search(made.images, LinearModel(base, [rest], z), settings)
    whole, part = (search(made.images, volume, settings) for volume in (made.volume, base))
    expected = torch.where(z[:, :, None] == 1, whole.best.rotation, part.best.rotation)
    assert (angles_deg(found.best.rotation, expected) < 0.1).float().mean() > 0.9


def test_shifts_need_not_be_searched() -> None:
    made = phantom(10, snr=None, seed=9, shift_px=0.0)
    found = search(made.images, made.volume, replace(SETTINGS, shift_extent_px=0.0))
    assert torch.equal(found.best.shift_px, torch.zeros(10, 2))
    assert angles_deg(found.best.rotation, made.rotation).median() < 2.0


@pytest.mark.parametrize(("change", "name"), [({"k_max": 40}, "k_max"), ({"keep": 0}, "keep"), ({"k_min": 0}, "k_min")])
def test_settings_that_cannot_be_are_refused(change: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=name):
        search(phantom(2).images, phantom(2).volume, replace(SETTINGS, **change))


def test_tilt_pair_is_found_where_one_image_alone_is_ambiguous() -> None:
    """Two views of each particle carry more than one: rotations get better, and both images get consistent poses."""
    tilt = torch.from_numpy(Rotation.from_euler("x", 45, degrees=True).as_matrix()).float()
    first = torch.from_numpy(Rotation.random(40, random_state=7).as_matrix()).float()
    made = phantom(80, snr=0.05, seed=6, rotation=torch.cat([first, tilt @ first]))
    groups = ImageGroups(torch.arange(80).view(2, 40).T, torch.stack([torch.eye(3), tilt]))
    settings = replace(SETTINGS, refinements=2, k_max=12)
    pairs = search(made.images, made.volume, settings, groups=groups).best
    alone = search(made.images, made.volume, settings).best
    rows = groups.rows.flatten()
    assert angles_deg(pairs.rotation[1::2], tilt @ pairs.rotation[::2]).max() < 0.1
    assert angles_deg(pairs.rotation, made.rotation[rows]).mean() < angles_deg(alone.rotation, made.rotation).mean()
    assert (pairs.shift_px - made.shift_px[rows]).norm(dim=1).median() < 0.6

"""A map from nothing at low frequencies: its power, its posteriors, and that poses are found with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryodrgn_ext.fourier import so3_grid
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.pose.initial import Schedule, information, random_initial_map, shift_disc, signal_power
from cryodrgn_ext.pose.metrics import align_poses
from cryodrgn_ext.pose.model import points_on
from cryodrgn_ext.pose.scoring import Scorer
from cryodrgn_ext.pose.search import SearchSettings, search
from cryodrgn_ext.progress import SilentMonitor
from tests.pose.phantoms import phantom


def test_power_of_the_map_is_told_by_images_without_poses() -> None:
    made = phantom(1500, snr=0.2)
    found = signal_power(made.images, Scorer(made.images))
    points = so3_grid.grid(0)[:, :2]
    kxy = made.images.plane.kxy
    slices = made.volume.slice(points_on(torch.from_numpy(points).float(), kxy)).abs().square().mean(0)
    shell = made.images.plane.shell
    for s in range(2, 9):
        assert 0.7 < float(found[s] / slices[shell == s].mean()) < 1.4, s


def test_information_is_the_fit_of_the_true_poses() -> None:
    made = phantom(300, snr=0.2)
    scorer = Scorer(made.images)
    expected = information(scorer, signal_power(made.images, scorer), 10.0)
    found = scorer.own(made.volume, made.rotation[:, None], made.shift_px[:, None], radius=10.0).mean()
    assert 0.85 < expected / float(found) < 1.15


def test_shifts_cover_the_square() -> None:
    disc = shift_disc(5.0, 2.0)
    assert float(disc.abs().max()) == 5.0
    assert bool((disc == 0).all(1).any())
    places = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) * 7 - 3.5
    assert float(torch.cdist(places, disc).amin(1).max()) <= 1.25 * 2.0 / np.sqrt(2) + 1e-6
    assert shift_disc(0.0, 2.0).tolist() == [[0.0, 0.0]]


def test_shifts_are_never_farther_apart_than_asked_for() -> None:
    for extent in (1.0, 2.5, 3.0, 4.8, 10.0):
        for step in (0.7, 2.0, 2.3, 4.0):
            axis = shift_disc(extent, step)[:, 0].unique()
            assert float(axis.diff().max()) <= step + 1e-5 or len(axis) == 3


def test_posteriors_cool_slowly_from_where_they_begin_to_tell() -> None:
    schedule = Schedule()
    assert schedule.next_exponent(0.2, 0.9) == 0.2 * schedule.warming
    assert schedule.next_exponent(0.2, 0.1) == 0.2 * schedule.cooling
    assert schedule.next_exponent(0.99, 0.001) == 1.0


@pytest.mark.slow
def test_a_random_initial_map_gives_poses() -> None:
    made = phantom(400, snr=0.5, shift_px=2.0)
    scorer = Scorer(made.images, radius=9)
    schedule = Schedule(turns=2.5, batch=100, cooling=1.06, most_steps=40)
    power = signal_power(made.images, scorer)
    map_ = random_initial_map(scorer, power, schedule, 2.5, 13.0, 0, SilentMonitor())
    assert torch.equal(map_, random_initial_map(scorer, power, schedule, 2.5, 13.0, 0, SilentMonitor()))
    looking = SearchSettings(base_level=0, refinements=1, keep=4, k_min=5, k_max=6, shift_extent_px=2.5, shift_count=3)
    found = search(made.images, FourierVolume.from_map(map_, radius=7), looking)
    aligned = align_poses(found.best, made.poses)
    assert np.mean(aligned.errors.degrees < 40) > 0.6  # by chance: 2 %

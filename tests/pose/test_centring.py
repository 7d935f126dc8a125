"""Centres of mass, displaced spectra, and poses that follow."""

from __future__ import annotations

import torch

from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.pose.centring import centre_of_mass, centred_poses, move_spectrum, recentred
from cryodrgn_ext.pose.scoring import Scorer
from tests.pose.phantoms import density, phantom


def test_centre_of_mass_follows_a_moved_map() -> None:
    volume = density(32)
    before = centre_of_mass(volume)
    after = centre_of_mass(torch.roll(volume, (2, -3, 1), (0, 1, 2)))  # z, y, x
    assert torch.allclose(after - before, torch.tensor([1.0, -3.0, 2.0], dtype=torch.float64), atol=1e-3)


def test_a_map_of_nothing_has_its_centre_in_the_centre() -> None:
    assert centre_of_mass(torch.zeros(16, 16, 16)).tolist() == [0.0, 0.0, 0.0]


def test_moved_spectrum_is_that_of_the_moved_map() -> None:
    volume = density(32)
    given = FourierVolume.from_map(volume, radius=8)
    # Gridding correction differs between the two places: compare transforms of plain maps.
    from cryodrgn_ext.fourier.slices import map_to_grid

    moved = move_spectrum(map_to_grid(volume, given.grid), given.grid, torch.tensor([2.0, -1.0, 3.0]))
    wanted = map_to_grid(torch.roll(volume, (3, -1, 2), (0, 1, 2)), given.grid)
    assert float((moved - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())


def test_images_fit_a_centred_map_with_the_shifts_that_follow() -> None:
    made = phantom(20, snr=None)
    offset = torch.tensor([2.0, -1.0, 1.0])
    centred = torch.roll(made.density, (-1, 1, -2), (0, 1, 2))
    scorer = Scorer(made.images)
    before = scorer.own(made.volume, made.rotation[:, None], made.shift_px[:, None])
    shift = centred_poses(made.poses, offset).shift_px
    after = scorer.own(FourierVolume.from_map(centred), made.rotation[:, None], shift[:, None])
    assert torch.allclose(before, after, rtol=2e-3)
    stale = scorer.own(FourierVolume.from_map(centred), made.rotation[:, None], made.shift_px[:, None])
    assert bool((stale < before).all())


def test_recentred_images_have_their_particles_at_the_centre() -> None:
    made = phantom(20, snr=None)
    moved = recentred(made.images, made.shift_px)
    known = Scorer(made.images).own(made.volume, made.rotation[:, None], made.shift_px[:, None])
    nothing = Scorer(moved).own(made.volume, made.rotation[:, None], torch.zeros(20, 1, 2))
    assert torch.allclose(known, nothing, rtol=1e-4)

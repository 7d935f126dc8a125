"""References of half-sets, and rounds of refinement from a rough map."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryodrgn_ext.fourier.masks import spherical_mask
from cryodrgn_ext.fourier.shells import apply_radial_weights
from cryodrgn_ext.pose import refinement
from cryodrgn_ext.pose.half_references import JOINED_RADIUS, make_references, resolved_radius
from cryodrgn_ext.pose.metrics import align_poses, pose_errors
from cryodrgn_ext.pose.reconstruct_settings import ReconstructSettings
from cryodrgn_ext.pose.refinement import RefinementState, first_state, refine
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.reconstruction.backprojection import backproject
from tests.pose.phantoms import Phantom, phantom


def low_passed(made: Phantom, radius: float) -> torch.Tensor:
    shells = torch.arange(len(made.density) // 2 + 1)
    return apply_radial_weights(made.density, torch.exp(-((shells / radius) ** 4)))


def test_resolved_radius_is_where_the_curve_falls() -> None:
    curve = np.array([0.0, 0.9, 1.0, 0.8, 0.2, 0.1, 0.5])
    assert abs(resolved_radius(curve) - 4.57) < 1e-9
    assert resolved_radius(np.ones(9)) == 8.0
    assert resolved_radius(np.array([1.0, 1.0, 0.0, 0.0])) < 2.0


def test_references_share_only_the_lowest_frequencies() -> None:
    made = phantom(300, snr=0.3)
    aligned = made.images.with_poses(made.poses)
    sums = [backproject(aligned, (aligned.half_set == half).nonzero()[:, 0]) for half in (1, 2)]
    found = make_references(sums[0], sums[1], spherical_mask(32, 12.0, 1.5))
    low = torch.zeros(17)
    low[: JOINED_RADIUS - 1] = 1.0
    difference = found.half1 - found.half2
    shared = apply_radial_weights(difference, low).norm() / apply_radial_weights(found.half1, low).norm()
    apart = apply_radial_weights(difference, 1.0 - low).norm() / apply_radial_weights(found.half1, 1.0 - low).norm()
    assert float(shared) < 0.1 * float(apart)
    assert 8 < found.radius <= 16
    assert float(found.mask.max()) <= 1.0
    assert float(found.mask[0].max()) < 1e-3
    inside = (made.density > 0.2 * made.density.max()) & (spherical_mask(32, 12.0, 0.0) > 0)
    assert float(found.mask[inside].min()) > 0.9
    assert float(found.mask.mean()) < 0.7 * float(spherical_mask(32, 12.0, 1.5).mean())


def test_a_rough_map_becomes_poses_of_images_picked_off_centre() -> None:
    made = phantom(400, snr=0.5, shift_px=4.0)
    settings = ReconstructSettings(max_shift_px=3.0)  # some lie farther out: later searches look around what is known
    rough = torch.roll(low_passed(made, 5.0), 1, 0)
    states: list[RefinementState] = []
    done = refine(made.images, (rough, rough), settings, first_state(made.images, 6.0), SilentMonitor(), states.append)
    state = done.state
    aligned = align_poses(state.estimates.poses, made.poses)
    assert not aligned.transform.mirrored
    assert np.median(aligned.errors.degrees) < 3.0
    assert np.mean(aligned.errors.degrees < 15) > 0.95
    assert np.median(aligned.errors.shift_px) < 0.2
    assert [one.round for one in states] == list(range(1, len(states) + 1))
    assert states[-1].radius > states[0].radius > 6.0  # the band grew
    assert state.next_kind is None
    assert state.moved_share < 0.02
    assert float(state.estimates.log_likelihood.min()) > 0


def test_images_without_noise_hold_their_poses() -> None:
    # Sums over two grid points per cycle per box let them drift by one degree.
    made = phantom(2000, snr=300.0, with_ctf=False, shift_px=0.0)
    settings = ReconstructSettings(max_shift_px=3.0)
    rough = low_passed(made, 8.0)
    state = refine(made.images, (rough, rough), settings, first_state(made.images, 10.0), SilentMonitor()).state
    aligned = align_poses(state.estimates.poses, made.poses)
    assert np.median(aligned.errors.degrees) < 0.75
    assert np.mean(aligned.errors.degrees < 5) > 0.99


def test_maps_of_uncertain_poses_are_made_from_draws_that_a_continued_run_repeats() -> None:
    made = phantom(600, snr=0.08)
    settings = ReconstructSettings(max_shift_px=3.0, rounds=4)
    rough = low_passed(made, 8.0)
    states = [first_state(made.images, 8.0)]
    done = refine(made.images, (rough, rough), settings, states[0], SilentMonitor(), states.append)
    again = refine(made.images, (rough, rough), settings, states[2], SilentMonitor())
    assert torch.equal(again.state.estimates.poses.rotation, done.state.estimates.poses.rotation)
    assert torch.equal(again.sums1.numerator, done.sums1.numerator)
    # What is returned is at the best poses, and the references are not: they are smoother.
    sharp = make_references(done.sums1, done.sums2, spherical_mask(32, 12.0, 1.5))
    high = 1.0 - torch.exp(-((torch.arange(17) / 6.0) ** 4))
    of_draws = apply_radial_weights(done.references.half1, high).norm() / done.references.half1.norm()
    assert float(of_draws) < 0.95 * float(apply_radial_weights(sharp.half1, high).norm() / sharp.half1.norm())
    drawn = list(refinement._drawn_poses(made.images, done.state, settings))
    assert len(drawn) > 1
    best = done.state.estimates.poses
    rotated_deg = np.stack([pose_errors(one, best).degrees for one in drawn])
    expected = done.state.estimates.error_deg.clamp_max(refinement.MOST_DEG).numpy()
    assert np.sqrt(np.mean(rotated_deg**2)) == pytest.approx(np.sqrt(3.0 * np.mean(expected**2)), rel=0.1)

"""The motions of Zhong 2022 (3.7.1, 4.4.1) and the planted rare state: geometry, proportions and labels."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.simulate import simulate
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.options.simulate import SimulateSettings
from cryodrgn_ext.progress import Monitor, SilentMonitor
from cryodrgn_ext.settings import describe
from cryodrgn_ext.simulate import MOTIONS, RareStateMotion, load_truth, simulate_particles
from cryodrgn_ext.simulate.motions import HINGE_DEG, choose_motion
from cryodrgn_ext.simulate.motions.base import exact_counts
from cryodrgn_ext.simulate.motions.circular import N_ARM as N_CIRCLING
from cryodrgn_ext.simulate.motions.rare import N_FACTOR
from cryodrgn_ext.simulate.motions.ribosome import N_SMALL
from cryodrgn_ext.simulate.motions.two_hinges import N_ARM


def test_circular_motion_closes() -> None:
    motion = MOTIONS["circular"](0)
    states = motion.beads(motion.state_coordinates).position_A
    ends = motion.beads(np.array([[0.0], [360.0]])).position_A
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-9)
    # Every step is the same step, from the last state to the first too; the other side is farthest away.
    step = np.linalg.norm(states - np.roll(states, 1, axis=0), axis=2)
    np.testing.assert_allclose(step, step[:1].repeat(len(step), axis=0), atol=1e-9)
    assert np.all(step[:, :-N_CIRCLING] == 0)
    from_start = np.sqrt(((states - states[0]) ** 2).sum(axis=(1, 2)))
    assert int(from_start.argmax()) == len(states) // 2
    np.testing.assert_allclose(from_start[1:], from_start[:0:-1], atol=1e-9)
    for one in states[::20]:
        np.testing.assert_allclose(pdist(one[-N_CIRCLING:]), pdist(states[0, -N_CIRCLING:]))
    assert motion.state_of(np.array([[359.0], [1.0], [181.0]])).tolist() == [0, 0, len(states) // 2]


def test_volumes_of_the_circle_form_a_circle() -> None:
    particles = simulate_particles(4, motion="circular", box_size=32, pixel_size_A=8.0, max_shift_px=0.0)
    volumes = particles.volumes(np.arange(0.0, 361.0, 30.0)[:, None]).reshape(13, -1).astype(np.float64)
    np.testing.assert_allclose(volumes[0], volumes[-1], atol=1e-4 * volumes.max())
    centred = volumes[:-1] - volumes[:-1].mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    angle = np.unwrap(np.arctan2(u[:, 1], u[:, 0]))
    turns = np.diff(angle)
    assert np.all(turns > 0) or np.all(turns < 0)  # one way around
    assert abs(angle[-1] - angle[0]) == pytest.approx(2 * np.pi * 11 / 12, rel=0.15)
    assert s[1] > 0.7 * s[0]


def test_two_hinges_move_one_at_a_time() -> None:
    motion = MOTIONS["linear-2d"](0)
    drawn = motion.sample(2000, np.random.default_rng(0))
    assert np.all((drawn == 0).any(axis=1))
    moved = (drawn > 0).sum(axis=0)
    assert abs(int(moved[0]) - int(moved[1])) < 150
    assert len(np.unique(motion.state_coordinates, axis=0)) == len(motion.state_coordinates)
    rest, first, second = motion.beads(np.array([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])).position_A
    for out, arm, other in ((first, slice(-2 * N_ARM, -N_ARM), slice(-N_ARM, None)),
                            (second, slice(-N_ARM, None), slice(-2 * N_ARM, -N_ARM))):  # fmt: skip
        np.testing.assert_array_equal(out[other], rest[other])
        np.testing.assert_array_equal(out[: -2 * N_ARM], rest[: -2 * N_ARM])
        assert np.median(np.linalg.norm(out[arm] - rest[arm], axis=1)) > 20
        np.testing.assert_allclose(pdist(out[arm]), pdist(rest[arm]))
    # The arms swing in planes at right angles: the first leaves y as it was, the second x.
    np.testing.assert_allclose(first[:, 1], rest[:, 1], atol=1e-12)
    np.testing.assert_allclose(second[:, 0], rest[:, 0], atol=1e-12)


def test_populations_along_the_hinge() -> None:
    n, bins = 30_000, np.arange(51) - 0.5
    histogram = {}
    for name in ("uniform", "cooperative", "noncontiguous"):
        motion = MOTIONS[name](0)
        drawn = motion.sample(n, np.random.default_rng(1))
        assert set(drawn[:, 0]) <= set(motion.state_coordinates[:, 0])
        assert motion.state_coordinates.max() == pytest.approx(np.degrees(0.03 * 49))
        histogram[name] = np.histogram(motion.state_of(drawn), bins)[0]
    assert histogram["uniform"].min() > 0.8 * n / 50
    for name, spread in (("cooperative", 3.0), ("noncontiguous", 1.0)):
        density = sum(np.exp(-0.5 * ((np.arange(50) - c) / spread) ** 2) for c in (9, 24, 39))
        expected = n * density / (3 * spread * np.sqrt(2 * np.pi))
        np.testing.assert_allclose(histogram[name], expected, atol=5 * np.sqrt(expected.max()))
    assert histogram["cooperative"][[16, 17, 31, 32]].min() > 0
    assert histogram["noncontiguous"][[15, 16, 17, 31, 32]].max() == 0  # nothing between the states


def test_subunits_are_there_in_exact_proportions() -> None:
    motion = MOTIONS["ribosome"](0)
    state = motion.state_of(motion.sample(5000, np.random.default_rng(2)))
    assert np.bincount(state).tolist() == [1000, 1500, 2500]
    assert np.any(np.diff(state[:100]) != 0)
    weight = motion.beads(motion.state_coordinates).weight
    assert weight.sum(axis=1).tolist() == [N_SMALL, weight[2].sum() - N_SMALL, weight[2].sum()]
    assert exact_counts(7, (10, 15, 25)).tolist() == [1, 2, 4]
    assert exact_counts(1, (10, 15, 25)).sum() == 1


@pytest.mark.parametrize("name", sorted(MOTIONS))
def test_rare_state_of_any_motion(name: str) -> None:
    base = MOTIONS[name](3)
    motion = RareStateMotion(base, 0.003, 3)
    drawn = motion.sample(2000, np.random.default_rng(4))
    rare = drawn[:, -1] == 1
    assert rare.sum() == 6
    last = len(base.state_coordinates)
    assert np.array_equal(motion.state_of(drawn) == last, rare)
    assert np.array_equal(motion.state_of(motion.state_coordinates), np.arange(last + 1))
    common, factor = motion.beads(motion.state_coordinates[[0, last]]).weight
    assert common[-N_FACTOR:].sum() == 0
    assert factor[-N_FACTOR:].sum() == N_FACTOR
    assert np.array_equal(common[:-N_FACTOR], factor[:-N_FACTOR])
    position = motion.beads(motion.state_coordinates[[last]])
    there = position.weight[0, :-N_FACTOR] > 0
    gap_A = cdist(position.position_A[0, :-N_FACTOR][there], position.position_A[0, -N_FACTOR:]).min()
    assert 1.0 < gap_A < 30.0  # it touches, and does not sit inside
    assert motion.radius_A < 110.0  # a box of 64 pixels of 4 Å takes it


def test_rare_state_from_the_settings(tmp_path: Path) -> None:
    settings = SimulateSettings(o=tmp_path / "p", particles=400, box=32, pixel_size_A=8.0, motion="ribosome",
                                rare_fraction=0.01, seed=6)  # fmt: skip
    said = io.StringIO()
    simulate(settings, Monitor(said))
    truth = load_truth(tmp_path / "p/truth.npz")
    assert truth.coordinate_names == ("small", "large", "rare")
    assert np.bincount(truth.state, minlength=4)[3] == 4
    assert truth.n_states == 4
    assert read_particles(tmp_path / "p/particles.star").n == 400
    again = replace(settings, o=tmp_path / "q")
    simulate(again, SilentMonitor())
    assert (tmp_path / "q/particles.star").read_bytes() == (tmp_path / "p/particles.star").read_bytes()


def test_every_motion_has_its_option(tmp_path: Path) -> None:
    field = next(field for field in describe(SimulateSettings) if field.name == "motion")
    assert set(field.choices or ()) == set(MOTIONS)
    assert SimulateSettings(o=tmp_path).angle == HINGE_DEG
    for name in MOTIONS:
        motion = choose_motion(name, HINGE_DEG, 0.0, 0)
        assert np.array_equal(motion.state_coordinates, MOTIONS[name](0).state_coordinates)
    with pytest.raises(InputError, match="--angle belongs to --motion hinge, not to circular"):
        choose_motion("circular", 30.0, 0.0, 0)
    with pytest.raises(InputError, match=r"above 0 and at most 0\.5"):
        RareStateMotion(MOTIONS["rigid"](0), 0.7)

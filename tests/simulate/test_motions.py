from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from cryodrgn_ext.simulate import MOTIONS, two_domain_protein
from cryodrgn_ext.simulate.motions.base import BEAD_DISTANCE_A, bead_cloud
from cryodrgn_ext.simulate.motions.hinge import N_ARM


@pytest.mark.parametrize("name", sorted(MOTIONS))
def test_every_motion_keeps_its_promises(name: str) -> None:
    motion = MOTIONS[name](3)
    drawn = motion.sample(50, np.random.default_rng(0))
    states = motion.state_coordinates
    assert drawn.shape == (50, len(motion.coordinate_names))
    assert states.shape[1] == drawn.shape[1]
    beads = motion.beads(drawn)
    assert beads.position_A.shape[:2] == beads.weight.shape
    assert np.array_equal(motion.state_of(states), np.arange(len(states)))
    assert np.array_equal(MOTIONS[name](3).beads(drawn).position_A, beads.position_A)
    assert not np.array_equal(MOTIONS[name](4).beads(drawn).position_A, beads.position_A)
    assert np.linalg.norm(motion.beads(states).position_A.mean(axis=(0, 1))) < 15.0


def test_the_arm_has_thirty_percent_of_the_mass_and_turns_as_a_rigid_body() -> None:
    protein = two_domain_protein(0)
    position = protein.beads(np.array([[0.0], [60.0]])).position_A
    assert N_ARM / position.shape[1] == pytest.approx(0.3)
    moved = np.linalg.norm(position[1] - position[0], axis=1)
    assert np.all(moved[:-N_ARM] == 0)
    assert np.median(moved[-N_ARM:]) > 20.0
    assert np.allclose(pdist(position[0, -N_ARM:]), pdist(position[1, -N_ARM:]))
    # The angle between any direction in the arm and its image cannot exceed the rotation; in the plane it equals it.
    before = (position[0, -1] - position[0, -N_ARM])[[0, 2]]
    after = (position[1, -1] - position[1, -N_ARM])[[0, 2]]
    cosine = before @ after / np.linalg.norm(before) / np.linalg.norm(after)
    assert np.rad2deg(np.arccos(cosine)) == pytest.approx(60.0, abs=1e-6)


def test_steps_and_continuum_of_the_hinge() -> None:
    rng = np.random.default_rng(0)
    assert len(np.unique(two_domain_protein(0).sample(2000, rng))) == 20
    angles = two_domain_protein(0, continuous=True).sample(2000, rng)
    assert len(np.unique(angles)) == 2000
    assert 0 <= angles.min() < 1
    assert 59 < angles.max() <= 60


def test_compositions_differ_in_mass_only() -> None:
    motion = MOTIONS["compositional"](0)
    beads = motion.beads(motion.state_coordinates)
    assert np.all(beads.position_A == beads.position_A[:1])
    assert beads.weight[0].sum() == 320
    assert beads.weight[-1].sum() == 590
    assert len(np.unique(beads.weight, axis=0)) == 8


def test_beads_keep_their_distance() -> None:
    cloud = bead_cloud(100, (1.0, 2.0, 3.0), (20.0, 20.0, 20.0), np.random.default_rng(0))
    assert pdist(cloud).min() >= BEAD_DISTANCE_A
    assert np.linalg.norm(cloud - [1.0, 2.0, 3.0], axis=1).max() <= 20.0
    with pytest.raises(ValueError, match="do not fit"):
        bead_cloud(100, (0.0, 0.0, 0.0), (5.0, 5.0, 5.0), np.random.default_rng(0))

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import KDTree

from cryodrgn_ext.analysis.sketch import nearest_points, sketch_particles
from cryodrgn_ext.errors import InputError


def test_every_particle_belongs_to_its_nearest_point() -> None:
    x = np.random.default_rng(0).normal(size=(3000, 5)) + 100  # far from the origin: rounding must not matter
    sketch = sketch_particles(x, 60)
    assert len(sketch.index) <= 60
    assert np.array_equal(sketch.label, KDTree(x[sketch.index]).query(x)[1])
    assert np.array_equal(sketch.label[sketch.index], np.arange(len(sketch.index)))
    assert sketch.size.sum() == 3000


def test_a_sketch_represents_better_than_a_random_sample() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4000, 4))
    sketch = sketch_particles(x, 100, seed=3)
    random = rng.choice(4000, 100, replace=False)
    error = ((x - x[sketch.index][sketch.label]) ** 2).sum()
    random_error = ((x - x[random][nearest_points(x, x[random])]) ** 2).sum()
    assert error < 0.8 * random_error


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_group_that_k_means_overlooks_is_represented(seed: int) -> None:
    """0.3 % of the particles; so few points that k-means has none to spare for them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(10_000, 6))
    x[:30] = 0.3 * rng.normal(size=(30, 6)) + [5, 0, 0, 0, 0, 0]
    sketch = sketch_particles(x, 30, seed=seed)
    representatives = np.flatnonzero(sketch.index < 30)
    assert len(representatives) >= 1
    cells = np.isin(sketch.label, representatives)
    assert cells[:30].mean() > 0.9
    assert cells[30:].sum() < 30


def test_outliers_are_not_taken_for_groups() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(3000, 4))
    directions = rng.normal(size=(40, 4))
    x[:40] = 9 * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    sketch = sketch_particles(x, 60)
    assert np.count_nonzero(sketch.index < 40) < 30


def test_small_sets_and_twins_are_taken_whole() -> None:
    x = np.repeat(np.arange(5.0)[:, None], 4, axis=0)
    sketch = sketch_particles(x, 10)
    assert sketch.index.tolist() == [0, 4, 8, 12, 16]
    assert np.array_equal(sketch.label, np.repeat(np.arange(5), 4))


def test_same_seed_same_sketch() -> None:
    x = np.random.default_rng(0).normal(size=(1000, 3))
    assert np.array_equal(sketch_particles(x, 50, seed=4).index, sketch_particles(x, 50, seed=4).index)


def test_what_cannot_be_sketched() -> None:
    with pytest.raises(InputError, match="at least one particle"):
        sketch_particles(np.zeros((4, 2)), 0)
    with pytest.raises(InputError, match="not finite"):
        sketch_particles(np.full((4, 2), np.inf), 2)


def test_sharp_states_whose_particles_hardly_differ_are_sketched_without_a_word() -> None:
    """Warnings are errors here."""
    rng = np.random.default_rng(0)
    x = np.where(np.arange(300)[:, None] % 2 == 0, -1.0, 1.0) + 2e-7 * rng.normal(size=(300, 2))
    found = sketch_particles(x, 36)
    assert set(np.sign(x[found.index, 0])) == {-1.0, 1.0}
    assert (np.sign(x[found.index[found.label], 0]) == np.sign(x[:, 0])).all()

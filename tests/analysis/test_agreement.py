from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsRegressor

from cryodrgn_ext.analysis.agreement import (
    evaluation_particles,
    fsc_area,
    moving_region,
    per_image_fsc_area,
    predict_truth,
)
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.simulate import simulate_particles


def test_perfect_latents_predict_the_truth_and_noise_does_not() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(size=3000)
    perfect = predict_truth(truth[:, None], truth)
    assert perfect.spearman > 0.999
    assert perfect.r2 > 0.998
    noise = predict_truth(rng.normal(size=(3000, 4)), truth)
    assert abs(noise.spearman) < 0.1
    assert noise.r2 < 0.05


def test_prediction_agrees_with_an_independent_implementation() -> None:
    rng = np.random.default_rng(1)
    z = rng.normal(size=(1003, 3))
    truth = z[:, 0] + 0.5 * rng.normal(size=1003)
    reference = cross_val_predict(KNeighborsRegressor(50), z, truth, cv=5)
    got = predict_truth(z, truth)
    assert np.allclose(got.predicted, reference)
    assert got.spearman == pytest.approx(spearmanr(reference, truth)[0])
    assert got.r2 == pytest.approx(1 - ((reference - truth) ** 2).mean() / truth.var())


def test_edge_cases_of_prediction() -> None:
    z = np.random.default_rng(2).normal(size=(30, 1))
    assert np.isnan(predict_truth(z, np.ones(30)).spearman)
    assert predict_truth(z, z[:, 0], n_neighbors=1).spearman > 0.9
    with pytest.raises(InputError, match="30 latents but 29 true values"):
        predict_truth(z, np.ones(29))
    with pytest.raises(InputError, match="at least 10 particles"):
        predict_truth(z[:4], np.ones(4))


def test_evaluation_particles_cover_all_states() -> None:
    state = np.random.default_rng(3).integers(0, 20, 5000)
    chosen = evaluation_particles(state)
    assert len(chosen) == len(np.unique(chosen)) == 50
    assert set(state[chosen]) == set(range(20))
    assert len(evaluation_particles(np.arange(7))) == 7


def test_moving_region_holds_the_arm_and_not_the_body() -> None:
    particles = simulate_particles(20)
    region = moving_region(particles.volumes())
    assert region.min() == 0
    assert region.max() == 1
    beads = particles.motion.beads(particles.motion.state_coordinates[[0]]).position_A[0]
    voxel = np.rint(beads / particles.pixel_size_A).astype(int) + 32
    inside = region[voxel[:, 2], voxel[:, 1], voxel[:, 0]] > 0.5
    moved = np.linalg.norm(particles.motion.beads(np.array([[60.0]])).position_A[0] - beads, axis=1)
    assert inside[moved > 15].mean() > 0.9
    assert inside[:200].mean() < 0.2
    with pytest.raises(InputError, match="all alike"):
        moving_region(np.ones((3, 8, 8, 8)))


def test_fsc_areas() -> None:
    particles = simulate_particles(20)
    truth = particles.volumes()
    states = np.array([0, 7, 19])
    assert np.allclose(per_image_fsc_area((truth[s] for s in states), truth, states), 1, atol=0.07)  # no Nyquist line
    mask = moving_region(truth)
    right = per_image_fsc_area((truth[s] for s in states), truth, states, mask)
    wrong = per_image_fsc_area((truth[s] for s in states[::-1]), truth, states, mask)
    assert np.all(right > 0.999)
    assert wrong[0] < 0.7
    noise = np.random.default_rng(0).normal(size=(1, *truth[0].shape))
    assert abs(per_image_fsc_area(noise, truth, np.array([3]))[0]) < 0.1
    assert fsc_area(np.array([0.0, 1.0, 0.5])) == 0.75

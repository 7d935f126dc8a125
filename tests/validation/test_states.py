from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.point_groups import point_group
from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps
from cryodrgn_ext.validation.evidence import Verdict
from cryodrgn_ext.validation.states import SubsetDraws, consensus_mask, iterate_states

from .conftest import Case, N


def labels_from_noise(case: Case) -> np.ndarray:
    """Three groups by the strength of an arbitrary pattern in each image: as much noise as an analysis can select."""
    pattern = gaussian_filter(np.random.default_rng(3).normal(size=(32,) * 3), 1.5).astype(np.float32)
    pattern *= consensus_mask(case.consensus).numpy()
    wanted = FourierVolume.from_map(torch.from_numpy(pattern))
    consensus = FourierVolume.from_map(torch.from_numpy(case.consensus.map))
    batch = case.images.batch(torch.arange(N))
    seen = batch.ctf * wanted.slice(batch.points)
    residual = batch.coefficients - batch.ctf * consensus.slice(batch.points)
    strength = ((seen.conj() * residual).real.sum(1) / seen.abs().square().sum(1)).numpy()
    return np.digitize(strength, np.quantile(strength, [1 / 3, 2 / 3]))


def test_true_states_are_distinct_and_look_like_the_truth(hinge: Case) -> None:
    labels = hinge.particles.state // 7  # three states
    states = list(iterate_states(hinge.images, labels, hinge.consensus))
    truth = hinge.particles.volumes()
    mask = consensus_mask(hinge.consensus).numpy()
    assert [state.verdict for state in states] == ["distinct"] * 3
    assert sum(state.n for state in states) == N
    fit = np.zeros((3, 3))
    for state in states:
        assert np.array_equal(state.indices, np.flatnonzero(labels == state.label))
        assert state.resolution_A < 25
        for other in range(3):
            volume = truth[hinge.particles.state[labels == other]].mean(0)
            fit[state.label, other] = np.corrcoef((state.map * mask).ravel(), (volume * mask).ravel())[0, 1]
    assert np.array_equal(fit.argmax(axis=1), [0, 1, 2])
    assert states[0].evidence.halves > 0.8
    assert "random subsets" in states[0].evidence.sentence()


def test_random_states_of_a_heterogeneous_set_are_not_distinguishable(hinge: Case) -> None:
    labels = np.random.default_rng(0).integers(0, 3, N)
    states = list(iterate_states(hinge.images, labels, hinge.consensus))
    assert [state.verdict for state in states] == ["not distinguishable"] * 3


@pytest.mark.parametrize("kind", ["random", "tilt", "defocus", "unequal", "noise"])
def test_a_homogeneous_set_is_reported_as_such(rigid: Case, kind: str) -> None:
    rng = np.random.default_rng(1)
    draw: dict[str, Callable[[], NDArray[Any]]] = {
        "random": lambda: rng.integers(0, 4, N),
        "tilt": lambda: np.digitize(rigid.particles.euler_deg[:, 1], [60, 120]),
        "defocus": lambda: np.digitize(rigid.particles.defocus.u_A, [15_000, 20_000]),
        "unequal": lambda: (rng.uniform(size=N) < 0.1).astype(int),
        "noise": lambda: labels_from_noise(rigid),
    }
    states = list(iterate_states(rigid.images, draw[kind](), rigid.consensus))
    assert {state.verdict for state in states} == {"not distinguishable"}
    if kind == "noise":  # the half-maps alone are deceived, which is why they are not believed alone
        assert max(state.evidence.halves_p for state in states[::2]) < 0.003
        assert max(abs(state.evidence.single_images) for state in states) < 5 * states[0].evidence.single_images_error


def test_a_window_does_not_carry_noise_between_the_sets_of_coefficients(rigid_windowed: Case) -> None:
    states = list(iterate_states(rigid_windowed.images, labels_from_noise(rigid_windowed), rigid_windowed.consensus))
    assert {state.verdict for state in states} == {"not distinguishable"}


def test_state_maps_are_those_of_an_ordinary_reconstruction(rigid: Case) -> None:
    labels = np.full(N, -1)
    labels[100:900] = 2
    (state,) = iterate_states(rigid.images, labels, rigid.consensus)
    expected = reconstruct_half_maps(rigid.images, torch.arange(100, 900), mask=consensus_mask(rigid.consensus))
    assert np.array_equal(state.half1, expected.half1)
    assert np.array_equal(state.map, expected.map)
    assert np.array_equal(state.fsc, expected.fsc)
    assert state.label == 2
    assert state.evidence.verdict is Verdict.NOT_DISTINGUISHABLE


def test_states_can_be_made_one_by_one(hinge: Case) -> None:
    labels = hinge.particles.state // 10
    together = list(iterate_states(hinge.images, labels, hinge.consensus, draws=SubsetDraws(seed=4)))
    (alone,) = iterate_states(hinge.images, labels, hinge.consensus, draws=SubsetDraws(seed=4), only=[1])
    assert alone.label == 1
    assert np.array_equal(alone.map, together[1].map)
    assert alone.evidence.halves == together[1].evidence.halves
    assert alone.evidence.single_images == together[1].evidence.single_images


def test_what_cannot_be_tested_says_why(rigid: Case) -> None:
    (everything,) = iterate_states(rigid.images, np.zeros(N, int), rigid.consensus)
    assert everything.evidence.sentence() == "not tested: it holds all particles"
    labels = np.zeros(N, int)
    labels[:6] = 1
    few = list(iterate_states(rigid.images, labels, rigid.consensus))[1]
    assert few.verdict == "not tested"
    assert "in one half-set" in few.evidence.sentence()


def test_labels_must_fit_the_particles(rigid: Case) -> None:
    with pytest.raises(InputError, match=f"{N} labels expected"):
        next(iterate_states(rigid.images, np.zeros(5, int), rigid.consensus))
    with pytest.raises(InputError, match="no particle has a state"):
        next(iterate_states(rigid.images, np.full(N, -1), rigid.consensus))


def test_the_symmetry_of_the_consensus_is_imposed_on_the_states(rigid: Case) -> None:
    group = point_group("D2")
    consensus = reconstruct_half_maps(rigid.images, symmetry=group)
    labels = np.random.default_rng(0).integers(0, 2, N)
    states = list(iterate_states(rigid.images, labels, consensus))
    for state in states:
        core = state.map[1:, 1:, 1:]  # about voxel D // 2
        for axes in ((0, 1), (0, 2), (1, 2)):
            np.testing.assert_allclose(np.rot90(core, 2, axes), core, atol=1e-4 * core.max())
        rows, mask = torch.from_numpy(np.flatnonzero(labels == state.label)), consensus_mask(consensus)
        expected = reconstruct_half_maps(rigid.images, rows, mask=mask, symmetry=group)
        np.testing.assert_array_equal(state.half1, expected.half1)
    assert {state.verdict for state in states} == {"not distinguishable"}

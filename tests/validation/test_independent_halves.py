"""Two models that never met: states are matched whatever their numbers, and what only one has is not shared."""

from __future__ import annotations

import numpy as np
import pytest

from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.validation.independent_halves import (
    HalvesFinding,
    MatchedState,
    component_agreement,
    match_states,
    matched_states,
)
from cryodrgn_ext.validation.states import iterate_states
from cryodrgn_ext.validation.verdict import Conclusion

from .conftest import Case, N


def found_in(case: Case, labels: np.ndarray) -> tuple[list[tuple[int, int]], list[MatchedState]]:
    half_set = case.images.half_set.numpy()
    matching = match_states(case.images, labels, case.consensus, 0, SilentMonitor())
    states = iterate_states(case.images, matching.labels, case.consensus)
    return matching.pairs, matched_states(states, matching, half_set)


def test_states_of_both_halves_find_each_other(hinge: Case) -> None:
    """Thirds of a motion, numbered otherwise in the other half."""
    labels, second = hinge.particles.state // 7, hinge.images.half_set.numpy() == 2
    labels = np.where(second, np.array([2, 0, 1])[labels], labels)
    pairs, states = found_in(hinge, labels)
    assert sorted(pairs) == [(0, 2), (1, 0), (2, 1)]
    assert all(state.shared and state.correlation > 0.5 for state in states)
    assert sum(state.share_first for state in states) == pytest.approx(1.0, abs=1e-3)


def test_what_is_in_one_half_only_is_not_shared(hinge: Case) -> None:
    labels, second = hinge.particles.state // 7, hinge.images.half_set.numpy() == 2
    _, states = found_in(hinge, np.where(second, np.random.default_rng(0).integers(0, 3, N), labels))
    assert not any(state.shared for state in states)


def test_components_agree_as_far_as_they_were_planted() -> None:
    """Three maps with nothing in common: both models have the first, each has one of its own."""
    rng = np.random.default_rng(1)
    maps = np.linalg.qr(rng.normal(size=(8**3, 3)))[0].T.reshape(3, 8, 8, 8)
    a, b = rng.normal(size=(2, 20, 2)) * [3.0, 1.0]
    first = np.einsum("nk,kzyx->nzyx", a, maps[:2]).astype(np.float32)
    second = np.einsum("nk,kzyx->nzyx", b, maps[[0, 2]]).astype(np.float32)
    found = component_agreement(first, second, np.ones((8, 8, 8), np.float32), 8, 5)
    # The sampled coefficients are correlated a little, so that the components are mixed a little.
    assert len(found) == 2
    assert found[0] > 0.9
    assert sum(found) == pytest.approx(1.0, abs=1e-3)


def test_models_without_a_common_state_leave_no_proof() -> None:
    state = MatchedState(0, 1, 0.4, 0.5, 0.6, 20.0, True)
    common, none = (
        HalvesFinding((one,), (0.9, 0.2)) for one in (state, MatchedState(0, 1, 0.4, 0.5, 0.1, 60.0, False))
    )
    assert common.judge(Conclusion("proven")).words == "proven"
    assert none.judge(Conclusion("proven")).words == "likely"
    assert none.judge(Conclusion("not shown")).words == "not shown"
    assert "1 of 1 states in common, with shares of the particles that differ by at most 10 %" in common.sentence()
    assert "1 of 2 components" in common.sentence()
    assert HalvesFinding.of(common.plain()) == common

"""States cut from latents: as many as there are, and one where nothing was learnt."""

from __future__ import annotations

import numpy as np
import pytest

from cryodrgn_ext.workflow.states_run import cut_latents

USABLE = np.zeros(200, bool)


@pytest.mark.parametrize("distinct", [1, 2, 3])
def test_there_are_no_more_states_than_distinct_latents(distinct: int) -> None:
    z = np.repeat(np.arange(200) % distinct, 2).reshape(200, 2).astype(np.float32)
    table, apart = cut_latents(z, None, USABLE, 4, seed=0)
    assert table.n_states == distinct
    assert not len(apart)
    for state in range(distinct):
        assert len(np.unique(z[table.label == state], axis=0)) == 1


def test_images_that_cannot_be_used_belong_to_no_state() -> None:
    unusable = USABLE.copy()
    unusable[:20] = True
    z = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    z[:20] = 1e3
    table, _ = cut_latents(z, None, unusable, 4, seed=0)
    assert np.array_equal(table.label < 0, unusable)
    assert table.n_states == 4

"""A state whose claim is taken back says so everywhere; populations are written, read and shown as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cryodrgn_ext.report.evidence_tables import evidence_tables
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.null_table import against_gain, write_gain
from cryodrgn_ext.results.population_table import claimed_populations, populations_sentence, write_populations
from cryodrgn_ext.results.states import StateResult
from cryodrgn_ext.validation.state_weights import StateWeights
from cryodrgn_ext.validation.verdict import Conclusion

WEAK = Conclusion("proven", single_images=0.07, error=0.02)


def state(number: int, conclusion: Conclusion) -> StateResult:
    return StateResult(number, 100, 10.0, [1.0], "distinct", "distinct: 0.07 ± 0.02", "key", conclusion)


def test_a_claim_that_is_taken_back_is_not_distinct() -> None:
    back = state(0, WEAK).concluded(Conclusion("not shown", reason="noise does it"))
    assert back.summary()["verdict"] == "not distinguishable"
    assert back.summary()["conclusion"] == "not shown"
    assert back.evidence == "not distinguishable: 0.07 ± 0.02; noise does it"
    kept = state(0, WEAK).concluded(Conclusion("likely", "view"))
    assert kept.verdict == "distinct"


def test_a_model_that_gains_nothing_speaks_against_weak_claims(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.checkpoint.mkdir()
    assert against_gain(layout, [WEAK]) == [WEAK]
    write_gain(layout, wins=True)
    assert against_gain(layout, [WEAK]) == [WEAK]
    write_gain(layout, wins=False)
    assert against_gain(layout, [WEAK])[0].claim == "not shown"


def test_populations_are_shown_beside_counts_where_a_state_is_claimed(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.checkpoint.mkdir()
    share = np.array([0.3, 0.7])
    write_populations(layout, [1, 4], StateWeights(share[::-1], share, share - 0.02, share + 0.02, 100))
    nothing = Conclusion("not shown")
    assert claimed_populations(layout, [state(1, nothing), state(4, nothing)]) == []
    found = claimed_populations(layout, [state(1, WEAK), state(4, nothing)])
    assert [one["state"] for one in found] == [1, 4]
    assert "4: 70.0 % (68.0 to 72.0; 30.0 % are nearest)" in populations_sentence(found)
    table = evidence_tables([], [], populations=found)[0]
    assert table.title == "Populations"
    assert list(table.rows[0]) == ["state 01", "70.0 %", "30.0 %", "28.0 to 32.0 %"]

"""What was found in images of one structure counts against the states of the data."""

from __future__ import annotations

from cryodrgn_ext.validation.null_finding import NullFinding, hangs_on_weak_states, without_gain
from cryodrgn_ext.validation.verdict import Conclusion

CLAIM, NOTHING = Conclusion("proven", single_images=0.2, error=0.02), Conclusion("not shown", single_images=0.01)


def test_a_silent_null_leaves_claims_as_they_are() -> None:
    null = NullFinding.of([[NOTHING, NOTHING], [NOTHING]], 1.2, 2.0)
    assert (null.runs, null.states, null.proven) == (2, 3, 0)
    assert null.judge(CLAIM) == CLAIM
    assert "2 sets" in null.sentence()
    assert "claimed 0 of 3 states" in null.sentence()


def test_a_claim_that_the_null_makes_too_is_taken_back_unless_it_is_much_stronger() -> None:
    null = NullFinding.of([[Conclusion("proven", single_images=0.16, error=0.02)]], 0.0, 0.0)
    assert null.judge(CLAIM).words == "not shown"
    stronger = Conclusion("proven", single_images=0.23, error=0.02)
    assert null.judge(stronger) == stronger
    assert null.judge(NOTHING) == NOTHING


def test_a_claim_must_exceed_what_is_learned_from_noise() -> None:
    """0.07 with an error of 0.02 is 3.5 standard errors from nothing, but two from what the null has on average."""
    null = NullFinding.of([[Conclusion("not shown", single_images=0.03, error=0.02)] * 4], 0.0, 0.0)
    weak = Conclusion("proven", single_images=0.07, error=0.02)
    assert null.judge(weak).words == "not shown"
    assert null.judge(CLAIM) == CLAIM


def test_weak_claims_of_a_model_that_gains_nothing_are_taken_back() -> None:
    weak = Conclusion("proven", single_images=0.07, error=0.02)
    assert hangs_on_weak_states([weak, NOTHING])
    assert [one.claim for one in without_gain([weak, NOTHING])] == ["not shown", "not shown"]
    assert not hangs_on_weak_states([weak, CLAIM])
    assert without_gain([weak, CLAIM]) == [weak, CLAIM]
    assert not hangs_on_weak_states([NOTHING])

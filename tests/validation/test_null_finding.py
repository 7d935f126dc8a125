"""What was found in images of one structure counts against the states of the data."""

from __future__ import annotations

from cryodrgn_ext.validation.null_finding import NullFinding
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

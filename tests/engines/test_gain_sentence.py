"""What a gain is worth is said: a small one may be as far beyond chance as a large one."""

from cryodrgn_ext.engines.held_out import HeldOut


def test_small_gains_are_said_to_be_small() -> None:
    assert "999 of them together by odds of 20 to 1" in HeldOut(0.003, 1e-4, 25.0).sentence()
    assert "together" not in HeldOut(3.1, 0.1, 25.0).sentence()
    assert "no better than the average" in HeldOut(0.003, 0.01, 25.0).sentence()

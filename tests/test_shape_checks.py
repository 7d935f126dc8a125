"""Shapes are checked while the tests run: in the first calls of each test."""

from __future__ import annotations

import jaxtyping
import pytest
import torch

from cryodrgn_ext.fourier.shifts import shift_phases
from tests.shape_checks import CHECKED_CALLS


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_wrong_shape_is_found_in_each_test(attempt: int) -> None:
    """Also in the second test: calls are counted anew."""
    kxy, shift = torch.zeros(7, 2), torch.zeros(3, 2)
    for _ in range(CHECKED_CALLS - 1):
        assert shift_phases(kxy, shift, 8).shape == (3, 7)
    with pytest.raises(jaxtyping.TypeCheckError):
        shift_phases(torch.zeros(7, 3), shift, 8)

"""Fixtures of the engine tests."""

from __future__ import annotations

import pytest

from tests.engines.linear_set import LinearSet, make_linear_set


@pytest.fixture(scope="session")
def linear_set() -> LinearSet:
    return make_linear_set(600, 0.07)

"""Shared by all tests: the order of the run and a quiet, headless environment."""

from __future__ import annotations

import os

import matplotlib
import pytest

matplotlib.use("Agg")
# Two tests that each ask for all cores stand in each other's way; RELION under test reads this as well.
os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))


def _stage(item: pytest.Item) -> int:
    """Fast tests come first, then those that call RELION, then the long ones."""
    if item.get_closest_marker("slow") is not None:
        return 2
    return 1 if item.get_closest_marker("relion") is not None else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_stage)  # a stable sort: the order inside a stage stays pytest's

"""Shared by all tests: the order of the run and a quiet, headless environment."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Set

import matplotlib
import pytest

from tests import shape_checks

shape_checks.install()  # before anything of the package is imported

matplotlib.use("Agg")
# RELION and the processes that tests start read this as well. A process of pytest-xdist inherits what the first one has
# set for itself.
beside = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))  # processes that share the cores
threads = max(1, (os.cpu_count() or 1) // beside)
os.environ["OMP_NUM_THREADS"] = str(min(threads, int(os.environ.get("OMP_NUM_THREADS", threads))))
# Tests start programs beside themselves: threads that wait must not keep the cores busy.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Tests send signals to themselves and to their children. A run in the background of a script, or under nohup, starts
# with some of them ignored, and children inherit that.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL), (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGQUIT, signal.SIG_DFL),
):  # fmt: skip
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


# Files of tests need not outlive a loss of power; waiting for the disk takes longer than many a test.
setattr(os, "fsync", lambda _descriptor: None)  # noqa: B010


# Before the conftest.py of a folder that is named imports the package; processes of pytest-xdist inherit the wish.
if "--lines" in sys.argv:
    os.environ["CRYODRGN_EXT_LINES"] = "yes"
line_counter = None
if "CRYODRGN_EXT_LINES" in os.environ:
    from tests import line_coverage  # a plug-in that is not otherwise needed

    line_counter = line_coverage.LineCoverage()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lines", action="store_true", help="count the lines of the package that the tests reach")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        from tests import compile_once  # of pytest-xdist's processes

        compile_once.install()
    if line_counter is not None:
        config.pluginmanager.register(line_counter)


def pytest_runtest_setup() -> None:
    shape_checks.next_test()


def stage(marks: Set[str]) -> int:
    """Fast tests come first, then those that call RELION, then the long ones; the other way round in parallel."""
    if "slow" in marks:
        return 2
    return 1 if "relion" in marks else 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    sign = -1 if hasattr(config, "workerinput") else 1  # of a process of pytest-xdist
    # A stable sort: the order inside a stage stays pytest's.
    items.sort(key=lambda item: sign * stage({mark.name for mark in item.iter_markers()}))

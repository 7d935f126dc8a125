"""The share of our lines that the tests reach, counted while they run in several processes.

Tracing each line makes the tests nearly twice as long; SlipCover puts a probe into the compiled functions instead, and
takes it out once the line was seen. Modules that numba compiles cannot hold probes and are not counted, as little as
lines that only run in processes of their own.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from slipcover import ImportManager, Slipcover

from tests.shape_checks import ROOT, is_compiled

PACKAGES = ("cryodrgn_ext", "relion_wrappers", "cryosparc_jobs")


def counted_files() -> list[Path]:
    """Modules whose lines are counted."""
    paths = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return [path for path in paths if not is_compiled(path)]


class CountedFiles:
    """Tells SlipCover which modules get probes."""

    def __init__(self) -> None:
        self._names = {str(path) for path in counted_files()}

    def matches(self, filename: str | Path | None) -> bool:
        """Whether the module of this file is counted."""
        return filename is not None and str(filename) in self._names


class LineCoverage:
    """Plug-in of pytest: counts in each process, adds in the first one, and prints at the end."""

    def __init__(self) -> None:
        others = [str(path) for package in PACKAGES for path in (ROOT / package).rglob("*.py") if is_compiled(path)]
        # The first process adds the modules that no test has imported.
        everything = None if "PYTEST_XDIST_WORKER" in os.environ else [str(ROOT / package) for package in PACKAGES]
        self._counter = Slipcover(source=everything, omit=others)
        self._reached: dict[str, set[int]] = defaultdict(set)
        self._lines: dict[str, set[int]] = defaultdict(set)
        ImportManager(self._counter, CountedFiles()).__enter__()

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Hand the lines of this process to the first one."""
        files = self._counter.get_coverage()["files"]
        counted = {name: (entry["executed_lines"], entry["missing_lines"]) for name, entry in files.items()}
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["lines"] = counted
        else:
            self._add(counted)

    @pytest.hookimpl(optionalhook=True)  # of pytest-xdist
    def pytest_testnodedown(self, node: Any) -> None:
        """Take the lines of a process that has ended."""
        self._add(getattr(node, "workeroutput", {}).get("lines", {}))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the share, and the modules that have most lines left."""
        total = sum(map(len, self._lines.values()))
        reached = sum(map(len, self._reached.values()))
        terminalreporter.section("lines reached")
        left = {name: len(lines - self._reached[name]) for name, lines in self._lines.items()}
        for name in sorted(left, key=lambda name: -left[name])[:10]:
            terminalreporter.write_line(f"{left[name]:5d} of {len(self._lines[name]):5d} not reached: {name}")
        terminalreporter.write_line(f"{100 * reached / max(total, 1):.1f} % of {total} lines reached")

    def _add(self, counted: dict[str, tuple[list[int], list[int]]]) -> None:
        for name, (reached, missing) in counted.items():
            self._reached[name].update(reached)
            self._lines[name].update(reached, missing)

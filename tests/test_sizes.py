"""Functions are read in one sitting: at most 60 lines outside compiled kernels. Files are found by their names.

Jobs say only what is theirs: what several of them need belongs to the rooms below.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cryodrgn_ext", "relion_wrappers", "cryosparc_jobs")
MOST_LINES = 60
MOST_LINES_OF_JOBS = 3_500
MOST_FILES_OF_ONE_NAME = 4
# Numba compiles each of these into one loop; parts of them cannot be named without a call in the innermost one.
KERNELS = "*kernels.py"


def function_lines(source: str) -> Iterator[tuple[str, int]]:
    """Yield the name of every function and the lines of its body, docstring left out."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            yield node.name, (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_lines_are_counted_without_the_docstring() -> None:
    source = 'def f(\n    a,\n):\n    """Says.\n\n    More.\n    """\n    b = a\n\n    return (\n        b\n    )\n'
    assert list(function_lines(source)) == [("f", 5)]
    assert list(function_lines('def g() -> None:\n    """Says."""')) == [("g", 0)]


def test_no_function_is_long() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {name} has {lines} lines"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if not path.match(KERNELS)
        for name, lines in function_lines(path.read_text("utf-8"))
        if lines > MOST_LINES
    ]
    assert not long, "\n".join(long)


def test_jobs_are_short() -> None:
    lines = sum(len(path.read_text("utf-8").splitlines()) for path in (ROOT / "cryodrgn_ext/jobs").rglob("*.py"))
    assert lines < MOST_LINES_OF_JOBS


def test_no_name_is_that_of_many_files() -> None:
    count = Counter(path.name for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    assert count.pop("__init__.py") > 1
    assert [name for name, files in count.items() if files > MOST_FILES_OF_ONE_NAME] == []

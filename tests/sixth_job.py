"""Adds the exercise of docs/examples to the jobs that there are: one module and one line, as its text says.

As a program: ``python -m tests.sixth_job --o DIR ...`` is ``cdx-relion-thin`` of that installation.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

from cryodrgn_ext.jobs.registry import JOBS, Job

SOURCE = Path(__file__).resolve().parent.parent / "docs/examples/thin.py"
MODULE = "cryodrgn_ext.jobs.thin"


def registry_line() -> Job:
    """The line that the exercise tells to add."""
    (text,) = re.findall(r"::\n\n    (Job\(.*?\)),\n\"\"\"", SOURCE.read_text("utf-8"), re.DOTALL)
    job = eval(text, {"Job": Job})  # our own documentation
    assert isinstance(job, Job)
    return job


def load_module() -> object:
    """The exercise as a module of the package."""
    spec = importlib.util.spec_from_file_location(MODULE, SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    from relion_wrappers.entry_point import run_program

    load_module()
    JOBS["thin"] = registry_line()
    sys.exit(run_program("thin"))

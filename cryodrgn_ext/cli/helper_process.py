"""A helper of a job on several processes, as a program of its own: ``python -m cryodrgn_ext.cli.helper_process``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from cryodrgn_ext.jobs.registry import JOBS
from cryodrgn_ext.settings import from_plain
from cryodrgn_ext.workflow.launcher import Worker, serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Help the job whose name and settings, as JSON, are the arguments; returns the exit status."""
    name, text = sys.argv[1:] if arguments is None else arguments
    plain: dict[str, Any] = json.loads(text)

    def make_worker() -> Worker:
        job = JOBS[name]
        return job.load_worker()(from_plain(job.settings_class, plain))

    return serve(make_worker)


if __name__ == "__main__":
    sys.exit(main())
